"""The bus over NATS: one connection that is replaced when it is lost, and an outbox that keeps messages until then."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from twd.bus.address import BusAddress
from twd.bus.base import (
    PAYLOAD_BYTES_MAX,
    BusError,
    BusMessage,
    BusStats,
    Handler,
    Leases,
    NoResponders,
    RequestTimeout,
    Subscription,
    SubscriptionOptions,
    check_pattern,
    check_size,
    check_subject,
    inbox_of,
    safe_reply,
)
from twd.bus.followed_leases import FollowedLeases
from twd.bus.inbox import Inbox
from twd.bus.nats.dial import Dialer
from twd.bus.nats.frames import StatusReply, publish_frame
from twd.bus.nats.leases import NatsLeases
from twd.bus.nats.link import Denial, LinkError, NatsLink
from twd.bus.nats.states import BusState, OnEvent, log_event
from twd.bus.nats.subscriptions import ANSWERS, Subscriptions
from twd.bus.outbox import Outbox
from twd.bus.questions import PendingRequests
from twd.wire.failures import FailureCode
from twd.wire.routes import WhenFull

PING_INTERVAL_S: Final = 4.5
OUTBOX_BYTES: Final = 32 * 1024 * 1024
DRAIN_TIMEOUT_S: Final = 5.0
CANCEL_AGAIN_S: Final = 0.2

log = logging.getLogger("twd.bus")


class NatsBus:
    """A bus over NATS; satisfies the Bus protocol. Make one with `connect`."""

    def __init__(
        self,
        address: BusAddress,
        *,
        name: str,
        on_event: OnEvent,
        ping_interval_s: float,
        outbox_bytes: int,
        gather_s: float,
    ) -> None:
        self.address = address
        self.name = name
        self.stats = BusStats()
        self._on_event = on_event
        self._gather_s = gather_s
        self._inbox = Inbox(self.stats)
        self._outbox = Outbox(self.stats, outbox_bytes)
        self._questions = PendingRequests(f"{inbox_of(name)}.{secrets.token_hex(11)}.")
        self._subscriptions = Subscriptions(self._inbox, f"{self._questions.prefix}*", lambda: self._link)
        self._dialer = Dialer(address, name, ping_interval_s, self._deliver, self._deny, self._subscriptions.greet)
        self._link: NatsLink | None = None
        self._payload_max = PAYLOAD_BYTES_MAX
        self._up = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._closed = asyncio.Event()
        self._followed: dict[str, FollowedLeases] = {}
        self._when_back: list[Callable[[], None]] = []

    @classmethod
    async def connect(
        cls,
        address: BusAddress,
        *,
        name: str = "twd",
        on_event: OnEvent = log_event,
        wait_s: float = 5.0,
        ping_interval_s: float = PING_INTERVAL_S,
        outbox_bytes: int = OUTBOX_BYTES,
        gather_s: float = 0.0,
    ) -> "NatsBus":
        """Connect within `wait_s` seconds, or raise a BusError; a connection that is lost later is always replaced.

        `name` is `<role>.<machine>`: answers arrive below `_INBOX.<role>.<machine>.`, so that a broker can keep them
        apart. A dead peer is noticed after three ping intervals. A client with many messages and no hurry can let them
        gather for `gather_s` seconds: to wake up for each of them costs more than to handle it.
        """
        check_subject(name)
        address.check_files()
        bus = cls(
            address,
            name=name,
            on_event=on_event,
            ping_interval_s=ping_interval_s,
            outbox_bytes=outbox_bytes,
            gather_s=gather_s,
        )
        link = await bus._dialer.within(wait_s)
        bus._adopt(link)
        bus._spawn("keep", bus._keep(link))
        return bus

    # -- sending -------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether messages can travel now."""
        return self._link is not None

    @property
    def clustered(self) -> bool:
        """Whether the broker is part of a cluster."""
        return self._link is not None and self._link.clustered

    def on_back(self, listener: Callable[[], None]) -> None:
        """Call this after each reconnect."""
        self._when_back.append(listener)

    def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Send to everybody who listens now; see the Bus protocol."""
        self._check(subject, data)
        if reply:
            check_subject(reply)
        self._send(subject, publish_frame(subject, reply, data))

    def _check(self, subject: str, data: bytes) -> None:
        check_subject(subject)
        check_size(subject, data, self._payload_max)
        if self._closed.is_set():
            raise BusError("the bus is closed")

    def _send(self, subject: str, frame: bytes) -> None:
        self.stats.sent += 1
        link = self._link
        if link is None or self._outbox or link.congested:
            self._outbox.put(subject, frame)
        else:
            link.write(frame)

    def push(self) -> None:
        """Write now what was published in this turn of the event loop."""
        if self._link is not None:
            self._link.push()

    async def _send_outbox(self, link: NatsLink) -> None:
        while not link.lost.done():
            await link.relieved()
            while self._outbox and not link.congested:
                link.write(self._outbox.pop())
            await self._outbox.filled.wait()

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when everything sent so far has reached the broker."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected()
                await self._outbox.empty.wait()
                await (await self._connected()).round_trip()
        except TimeoutError:
            raise BusError(f"the broker at {self.address.shown} took nothing within {timeout_s:g} s") from None

    async def _connected(self) -> NatsLink:
        while self._link is None:
            if self._closed.is_set():
                raise BusError("the bus is closed")
            await self._up.wait()
        return self._link

    # -- hearing -------------------------------------------------------------------------------

    async def subscribe(
        self,
        pattern: str,
        handler: Handler,
        *,
        queue: str = "",
        limit: int = 65536,
        when_full: WhenFull = WhenFull.DROP_NEWEST,
    ) -> Subscription:
        """Subscribe; on return the broker knows the subscription, unless it is away."""
        (subscription,) = await self.subscribe_all([SubscriptionOptions(pattern, handler, queue, limit, when_full)])
        return subscription

    async def subscribe_all(self, hearings: Sequence[SubscriptionOptions]) -> list[Subscription]:
        """Subscribe to several patterns; see the Bus protocol."""
        for one in hearings:
            check_pattern(one.pattern, one.queue)
        if self._closing:
            raise BusError("the bus is closed")
        return await self._subscriptions.open(hearings)

    def _deliver(self, number: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if number == ANSWERS:
            self._questions.take(subject.decode(errors="replace"), StatusReply.read(data, headers))
            return
        listener = self._subscriptions.listeners.get(number)
        if listener is not None:
            address = safe_reply(reply.decode(errors="replace")) if reply else ""
            self._inbox.receive(listener, BusMessage(subject.decode(errors="replace"), data, address))
            if self._gather_s and self._link is not None and not self._questions.waiting:
                self._link.rest(self._gather_s)

    # -- asking --------------------------------------------------------------------------------

    async def request(self, subject: str, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Ask and wait for one answer; raises NoResponders or RequestTimeout."""
        return (await self.ask(subject, data, timeout_s=timeout_s)).data

    async def ask(
        self, subject: str, data: bytes, *, headers: dict[str, str] | None = None, timeout_s: float = 5.0
    ) -> StatusReply:
        """Like `request`, with headers both ways;

        returns the answer. While the broker is away, it waits up to `timeout_s`.
        """
        self._check(subject, data)
        coming: asyncio.Future[StatusReply] = asyncio.get_running_loop().create_future()
        question = self._questions.put(subject, partial(_settle, coming))
        try:
            async with asyncio.timeout(timeout_s):
                if self._link is None:
                    await self._connected()
                self._send(subject, publish_frame(subject, question.answer_to, data, headers))
                answer = await coming
        except TimeoutError:
            raise RequestTimeout(subject, timeout_s) from None
        finally:
            self._questions.drop(question)
        if answer.status == "503":
            raise NoResponders(subject)
        return answer

    def inquire(
        self, subject: str, data: bytes, answered: Callable[[bytes | BusError], None], *, timeout_s: float = 5.0
    ) -> None:
        """`request` without a task; see the Bus protocol."""
        self._check(subject, data)
        if self._link is None:
            self._spawn("inquire", self._ask_for(subject, data, answered, timeout_s))
            return

        def settle(answer: StatusReply | BusError) -> None:
            alarm.cancel()
            if isinstance(answer, BusError):
                answered(answer)
            else:
                answered(NoResponders(subject) if answer.status == "503" else answer.data)

        question = self._questions.put(subject, settle)
        late = partial(self._questions.take, question.answer_to, RequestTimeout(subject, timeout_s))
        alarm = asyncio.get_running_loop().call_later(timeout_s, late)
        self._send(subject, publish_frame(subject, question.answer_to, data))

    async def _ask_for(
        self, subject: str, data: bytes, answered: Callable[[bytes | BusError], None], timeout_s: float
    ) -> None:
        try:
            answer: bytes | BusError = await self.request(subject, data, timeout_s=timeout_s)
        except BusError as error:
            answer = error
        answered(answer)

    def _deny(self, denial: Denial) -> None:
        self.stats.errors += 1
        self.stats.last_error = denial.text
        if denial.action == "subscription" and self._subscriptions.denied(denial):
            return
        self._on_event(BusState.DENIED, denial.text)
        if denial.action == "publish":
            self._questions.fail(BusError(denial.text, FailureCode.FORBIDDEN), denial.subject)

    async def leases(self, bucket: str, ttl_s: float) -> Leases:
        """Open a lease registry: a key-value bucket in the broker's memory, made at the first write.

        With an nkey or credentials file, the broker gives permissions by role, and no role may make or read a bucket;
        then leases are followed as messages.
        """
        if not (self.address.nkey_file or self.address.creds_file):
            return NatsLeases(self, bucket, ttl_s)
        if bucket not in self._followed:
            self._followed[bucket] = FollowedLeases(self, bucket, ttl_s)
        return self._followed[bucket]

    # -- the connection ------------------------------------------------------------------------

    def _adopt(self, link: NatsLink) -> None:
        self._subscriptions.announce(link)  # again: there may be new subscriptions since the connection was made
        self._link = link
        self._payload_max = min(PAYLOAD_BYTES_MAX, link.payload_bytes_max)
        self._up.set()
        self._on_event(BusState.CONNECTED, self.address.shown)

    async def _keep(self, link: NatsLink) -> None:
        """Send the outbox; whenever the connection is lost, make another one."""
        while True:
            sender = self._spawn("send", self._send_outbox(link))
            reason = await asyncio.shield(link.lost)
            sender.cancel()
            self._drop(reason)
            await link.abort()
            link = await self._dialer.for_ever(self._not_yet)
            self.stats.reconnects += 1
            self._adopt(link)
            for listener in self._when_back:
                asyncio.get_running_loop().call_soon(listener)

    def _drop(self, reason: str) -> None:
        self._link = None
        self._up.clear()
        self.stats.last_error = reason
        self._on_event(BusState.LOST, reason)
        self._questions.fail(BusError(f"the connection broke before an answer came: {reason}"))

    def _not_yet(self, error: LinkError) -> None:
        self.stats.errors += 1
        if str(error) != self.stats.last_error:  # the same error is reported once
            self.stats.last_error = str(error)
            self._on_event(BusState.REFUSED if error.final else BusState.LOST, str(error))

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of this bus. The kit's task groups cannot be used here: the kit imports the bus."""
        task = asyncio.get_running_loop().create_task(work, name=f"bus:{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s failed", task.get_name(), exc_info=error)

    # -- the end -------------------------------------------------------------------------------

    async def close(self) -> None:
        """Drain: unsubscribe, handle the queued messages, send the outbox, then disconnect."""
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            if self._link is not None:
                await self._drain(self._link)
        except BusError as error:
            log.warning("could not drain the bus: %s", error)
        finally:
            await self._hang_up()

    async def _drain(self, link: NatsLink) -> None:
        self._subscriptions.cancel(link)
        await self.flush(DRAIN_TIMEOUT_S)
        self._inbox.handle_all()
        await self.flush(DRAIN_TIMEOUT_S)

    async def _end_tasks(self) -> None:
        """Cancel the tasks until they end: one cancellation may get lost while a connection is being made."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=CANCEL_AGAIN_S)

    async def _hang_up(self) -> None:
        await self._end_tasks()
        link, self._link = self._link, None
        self._outbox.drop_all()
        self._inbox.clear()
        self._questions.fail(BusError("the bus is closed"))
        if link is not None:
            await link.abort()
        self._closed.set()
        self._up.set()
        self._on_event(BusState.CLOSED, "closed")


def _settle(coming: asyncio.Future[StatusReply], answer: StatusReply | BusError) -> None:
    if coming.done():
        return
    if isinstance(answer, BusError):
        coming.set_exception(answer)
    else:
        coming.set_result(answer)
