"""An in-memory bus with the semantics of NATS; payloads are always bytes, and it can simulate network faults.

`MemoryBroker` is the network; each `connect` returns one client. Delivery goes through the event loop, so a loop with
virtual time runs a whole simulation at once, in the same order for the same seed.
"""

import asyncio
import contextvars
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from twd.bus.base import (
    INBOX_PREFIX,
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
    safe_reply,
)
from twd.bus.inbox import Inbox, Listener
from twd.bus.interest import InterestTable
from twd.bus.memory.leases import ClientLeases, MemoryLeases
from twd.wire.routes import WhenFull, origin_in

OVERTAKEN_S: Final = 0.1
"""A reordered message comes up to this many seconds later than those behind it."""


@dataclass
class NetworkFaults:
    """Simulated faults: probabilities for each message, and a range of delays in seconds."""

    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)
    cut: set[frozenset[str]] = field(default_factory=set)
    """Pairs of nodes that cannot reach each other."""

    def parted(self, one: str, other: str) -> bool:
        """Return whether two nodes cannot reach each other."""
        return frozenset((one, other)) in self.cut


class MemoryBroker:
    """All clients of one simulated network, and its lease registries."""

    def __init__(self, seed: int = 0) -> None:
        self.faults = NetworkFaults()
        self.random = random.Random(seed)
        self.clients: list[MemoryBus] = []
        self.buckets: dict[str, MemoryLeases] = {}
        self.observers: list[Callable[[str, BusMessage], None]] = []
        self.interest: InterestTable[MemorySubscription] = InterestTable()
        self._inboxes = 0
        self._connects = 0
        self._paths: defaultdict[tuple[int, int], _Path] = defaultdict(_Path)
        self._context = contextvars.copy_context()

    def connect(self, node: str = "node") -> "MemoryBus":
        """Return a new client on a node."""
        self._connects += 1
        client = MemoryBus(self, node, self._connects)
        self.clients.append(client)
        return client

    def inbox(self, subject: str) -> str:
        """Return a new subject for answers to a request on `subject`, with the name of its sender."""
        self._inboxes += 1
        return ".".join(filter(None, (INBOX_PREFIX, *origin_in(subject), str(self._inboxes))))

    def route(self, sender: "MemoryBus", message: BusMessage) -> int:
        """Send a message to all matching subscriptions, one of each queue group; returns their number."""
        for observer in self.observers:
            observer(sender.node, message)
        wanted = self.interest.in_subject(message.subject)
        chosen = [sub for sub in wanted.everybody if sub.client.reachable_from(sender)]
        for group in wanted.groups:
            able = [sub for sub in group if sub.client.reachable_from(sender)]
            if able:
                chosen.append(self.random.choice(able))
        for sub in chosen:
            self._send(sender, sub, message)
        return len(chosen)

    def _send(self, sender: "MemoryBus", sub: "MemorySubscription", message: BusMessage) -> None:
        faults, dice = self.faults, self.random
        if sub.client is not sender and faults.drop and dice.random() < faults.drop:
            return
        copies = 2 if faults.repeat and dice.random() < faults.repeat else 1
        for _ in range(copies):
            self._deliver_later(sender, sub, message)

    def _deliver_later(self, sender: "MemoryBus", sub: "MemorySubscription", message: BusMessage) -> None:
        loop = asyncio.get_running_loop()
        faults, dice = self.faults, self.random
        copy = BusMessage(message.subject, bytes(message.data), safe_reply(message.reply) if message.reply else "")
        delay = dice.uniform(*faults.delay_s) if faults.delay_s[1] else 0.0
        if faults.reorder and dice.random() < faults.reorder:
            delay += dice.uniform(0.0, OVERTAKEN_S)
            loop.call_at(loop.time() + delay, sub.client.accept, sub, copy, context=self._context)
            return
        path = self._paths[sender.number, sub.client.number]
        if not delay and not path.under_way:
            sub.client.accept(sub, copy)
            return
        path.under_way.append((sub, copy))
        path.due = max(path.due, loop.time() + delay)
        loop.call_at(path.due, path.arrive, context=self._context)


@dataclass(slots=True)
class _Path:
    """Messages on their way from one client to another; they arrive in the order of sending."""

    under_way: "deque[tuple[MemorySubscription, BusMessage]]" = field(default_factory=deque)
    due: float = 0.0

    def arrive(self) -> None:
        """Deliver the first message; timers that end at the same time may run in any order."""
        sub, message = self.under_way.popleft()
        sub.client.accept(sub, message)


@dataclass(eq=False)
class MemorySubscription(Listener):
    """One subscription of one client; satisfies the Subscription protocol."""

    client: "MemoryBus" = field(kw_only=True)

    async def close(self) -> None:
        """Unsubscribe."""
        self.client._unsubscribe(self)


class MemoryBus:
    """One client's view of the broker; satisfies the Bus protocol."""

    def __init__(self, broker: MemoryBroker, node: str, number: int = 0) -> None:
        self.broker = broker
        self.node = node
        self.number = number
        self.stats = BusStats()
        self.subscriptions: list[MemorySubscription] = []
        self.inbox = Inbox(self.stats, batch=1)
        self._cut_off = False
        self._closed = False
        self._when_back: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        """Whether messages can travel now."""
        return not self._closed and not self.cut_off

    @property
    def cut_off(self) -> bool:
        """Whether the broker is out of reach."""
        return self._cut_off

    @cut_off.setter
    def cut_off(self, away: bool) -> None:
        was_away, self._cut_off = self._cut_off, away
        if was_away and self.connected:
            for listener in self._when_back:
                listener()

    def on_back(self, listener: Callable[[], None]) -> None:
        """Call this whenever the broker is within reach again."""
        self._when_back.append(listener)

    def reachable_from(self, sender: "MemoryBus") -> bool:
        """Return whether a message from `sender` can reach this client."""
        if self._closed or self.cut_off:
            return False
        faults = self.broker.faults
        return not faults.cut or not faults.parted(sender.node, self.node)

    def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Send to everybody who listens now."""
        self._check(subject, data)
        if reply:
            check_subject(reply)
        if self.cut_off:
            return
        self.stats.sent += 1
        self.broker.route(self, BusMessage(subject, bytes(data), reply))

    def push(self) -> None:
        """Does nothing: messages are sent at once."""

    def _check(self, subject: str, data: bytes) -> None:
        check_subject(subject)
        check_size(subject, data)
        if self._closed:
            raise BusError("the bus is closed")

    async def subscribe(
        self,
        pattern: str,
        handler: Handler,
        *,
        queue: str = "",
        limit: int = 65536,
        when_full: WhenFull = WhenFull.DROP_NEWEST,
    ) -> Subscription:
        """Subscribe; see the Bus protocol."""
        (subscription,) = await self.subscribe_all([SubscriptionOptions(pattern, handler, queue, limit, when_full)])
        return subscription

    async def subscribe_all(self, hearings: Sequence[SubscriptionOptions]) -> list[Subscription]:
        """Subscribe to several patterns; see the Bus protocol."""
        for one in hearings:
            check_pattern(one.pattern, one.queue)
        if self._closed:
            raise BusError("the bus is closed")
        return [
            self._listen(MemorySubscription(one.pattern, one.handler, one.queue, one.limit, one.when_full, client=self))
            for one in hearings
        ]

    def _listen(self, subscription: MemorySubscription) -> MemorySubscription:
        self.subscriptions.append(subscription)
        self.broker.interest.add(subscription)
        return subscription

    def _unsubscribe(self, subscription: MemorySubscription) -> None:
        if subscription in self.subscriptions:
            self.inbox.shut(subscription)
            self.subscriptions.remove(subscription)
            self.broker.interest.remove(subscription)

    async def request(self, subject: str, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Ask and wait for one answer."""
        coming: asyncio.Future[bytes | BusError] = asyncio.get_running_loop().create_future()
        withdraw = self._inquire(subject, data, coming.set_result, timeout_s)
        try:
            answer = await coming
        finally:
            withdraw()
        if isinstance(answer, BusError):
            raise answer
        return answer

    def inquire(
        self, subject: str, data: bytes, answered: Callable[[bytes | BusError], None], *, timeout_s: float = 5.0
    ) -> None:
        """`request` without a task; see the Bus protocol."""
        self._inquire(subject, data, answered, timeout_s)

    def _inquire(
        self, subject: str, data: bytes, answered: Callable[[bytes | BusError], None], timeout_s: float
    ) -> Callable[[], None]:
        """Send a request; returns a function that withdraws it."""
        self._check(subject, data)
        loop, inbox = asyncio.get_running_loop(), self.broker.inbox(subject)
        waiting = True

        def settle(answer: bytes | BusError) -> None:
            if waiting:
                withdraw()
                answered(answer)

        def withdraw() -> None:
            nonlocal waiting
            waiting = False
            alarm.cancel()
            self._unsubscribe(subscription)

        subscription = self._listen(MemorySubscription(inbox, lambda message: settle(message.data), client=self))
        alarm = loop.call_later(timeout_s, settle, RequestTimeout(subject, timeout_s))
        self.stats.sent += 1
        if not self.cut_off and not self.broker.route(self, BusMessage(subject, bytes(data), inbox)):
            loop.call_soon(settle, NoResponders(subject))
        return withdraw

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Returns at once, as sent messages are with the broker already; raises BusError while cut off."""
        if not self.connected:
            raise BusError("the bus is away")

    async def leases(self, bucket: str, ttl_s: float) -> Leases:
        """Open a lease registry."""
        registry = self.broker.buckets.setdefault(bucket, MemoryLeases(ttl_s))
        return ClientLeases(registry, lambda: self.connected)

    async def close(self) -> None:
        """Handle the queued messages, then disconnect."""
        if not self._closed:
            self.inbox.handle_all()
            self.kill()

    def kill(self) -> None:
        """Disconnect like a killed process: queued messages are not handled."""
        self._closed = True
        self.inbox.clear()
        for subscription in self.subscriptions:
            self.broker.interest.remove(subscription)
        self.subscriptions.clear()
        if self in self.broker.clients:
            self.broker.clients.remove(self)

    def accept(self, subscription: MemorySubscription, message: BusMessage) -> None:
        """Queue a message that arrives; handlers run in a later turn of the loop, in order."""
        if not self._closed:
            self.inbox.put(subscription, message)

    @property
    def paused(self) -> bool:
        """Whether this client handles no messages, like a stopped process."""
        return self.inbox.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self.inbox.paused = paused

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
