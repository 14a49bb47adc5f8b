"""The base class of all services: a service declares its events, starts, works, drains and stops.

A subclass lists the events that it reads and writes, and has one `on_<event>` method for each event that it reads; the
method returns effects. Handlers run one at a time on the event loop and must not block. An exception in a handler is
published as ServiceFaulted and ends the service; the supervisor starts it again.
"""

import asyncio
import logging
import os
import traceback
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final

import msgspec

import twd
from twd.bus.base import Bus, BusError, BusMessage, Leases, Subscription, SubscriptionOptions
from twd.kit.clock import Clock
from twd.kit.effects import Do, Effect, Note, Publish, WakeAt
from twd.kit.errors import internal
from twd.kit.ids import Ids
from twd.kit.messages.heard_events import decode_heard, handler_name, inbox_of_asker
from twd.kit.messages.reply_decoding import read_answer, read_answer_or_error
from twd.kit.messages.unread_messages import UnreadMessages, rejection
from twd.kit.micro import MicroEndpoints
from twd.kit.tasks import TaskGroup, every, start_unowned
from twd.wire.base import Event, EventId, ModelId, NodeId
from twd.wire.codec import Rejected, encode
from twd.wire.failures import TwdError
from twd.wire.leases.base import LeaseFacts
from twd.wire.routes import ROUTE_OF, Delivery, Route
from twd.wire.service import (
    Health,
    MessageDropped,
    MessageRejected,
    ServiceFaulted,
    ServiceLease,
    ServiceStarted,
    ServiceStopped,
)

LEASE_BUCKET: Final = "twd_services"
LEASE_TTL_S: Final = 10.0
LEASE_RENEW_S: Final = 3.0

Reply = Callable[[Event], None]
Effects = Iterable[Effect] | None


@dataclass(frozen=True)
class ServiceContext:
    """What a service gets from outside: bus, node name, clock, id generator, logger, process id."""

    bus: Bus
    node: NodeId
    clock: Clock
    ids: Ids
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("twd"))
    pid: int = field(default_factory=os.getpid)


class Service:
    """Base class of all services; see the module's docstring."""

    name: ClassVar[str]
    reads: ClassVar[tuple[type[Event], ...]] = ()
    reads_later: ClassVar[tuple[type[Event], ...]] = ()
    """The events of `reads` that `start` does not subscribe to; the service calls `listen` when it is ready."""
    writes: ClassVar[tuple[type[Event], ...]] = ()
    tick_s: ClassVar[float | None] = None
    model: ModelId = ModelId("")
    """The model that this service works for, or empty. It is put into every event whose `model` field is empty."""

    ALWAYS_WRITES: Final = (ServiceStarted, ServiceStopped, ServiceFaulted, MessageRejected, MessageDropped)

    def __init__(self, ctx: ServiceContext) -> None:
        self.ctx = ctx
        self.bus = ctx.bus
        self.clock = ctx.clock
        self.instance = ctx.ids.instance(self.name, ctx.node)
        self.log = ctx.log.getChild(self.name)
        self.tasks = TaskGroup(self.name, self._task_failed)
        self.health = Health.STARTING
        self.note = ""
        self.handled = 0
        self.unread = UnreadMessages()
        self.fault: BaseException | None = None
        self.ended = asyncio.Event()
        self._started_ms = 0
        self._running = False
        self._stopping = False
        self._turning = asyncio.Lock()
        self._subscriptions: list[Subscription] = []
        self._leases: Leases | None = None
        self._cause = EventId("")
        self._wake: asyncio.TimerHandle | None = None

    # -- for subclasses ------------------------------------------------------------------------

    async def setup(self) -> None:
        """Open what the service needs; called before the first subscription."""

    async def quiesce(self) -> None:
        """Finish the current work; called by `drain`, while messages still arrive."""

    async def teardown(self) -> None:
        """Close what setup opened."""

    def tick(self, now: float) -> Effects:
        """Called every `tick_s` seconds, and at the times that a WakeAt effect asked for; returns effects."""
        return None

    def facts(self) -> LeaseFacts:
        """Return the facts that this service publishes in its lease."""
        return LeaseFacts()

    def under_way(self) -> Hashable | None:
        """Return a name of what a thread of this service computes now, unique for each piece of work; None: nothing.

        Waiting for other machines does not count: that may take long while nothing moves here.
        """
        return None

    def pattern(self, event_type: type[Event]) -> str:
        """Return the subject pattern to subscribe to for one event. A subclass may return a narrower one."""
        return ROUTE_OF[event_type].pattern

    # -- publishing ----------------------------------------------------------------------------

    def emit(self, event: Event, *, cause: EventId | None = None) -> None:
        """Set an event's id, cause, source and time, and publish it. A service that does not run publishes nothing."""
        if type(event) not in self.writes and type(event) not in self.ALWAYS_WRITES:
            raise AssertionError(f"{self.name} does not declare that it writes {type(event).__name__}")
        if not self._running:
            return
        stamped = self._stamp(event, cause)
        self._publish(ROUTE_OF[type(event)].subject(stamped), stamped)

    def _publish(self, subject: str, event: Event) -> None:
        """Publish an event. If the bus refuses it, as when it is too large, it is logged and lost; that is no fault."""
        try:
            self.bus.publish(subject, encode(event))
        except BusError as error:
            self.log.error("%s is not told: %s", type(event).__name__, error)

    async def ask(self, event: Event, *, timeout_s: float = 5.0) -> Event | Rejected:
        """Send a request and return its answer. Raises a BusError if none came or the request was not understood."""
        stamped = self._stamp(event, None)
        subject = ROUTE_OF[type(event)].subject(stamped)
        return read_answer(await self.bus.request(subject, encode(stamped), timeout_s=timeout_s))

    def ask_then(
        self, event: Event, told: Callable[[Event | Rejected | BusError], None], *, timeout_s: float = 5.0
    ) -> None:
        """Like `ask` without a task: calls `told` once with the answer or the error, unless the service ended."""

        def answered(answer: bytes | BusError) -> None:
            if not self._running:
                return
            try:
                told(read_answer_or_error(answer))
            except Exception as error:  # noqa: BLE001 - the edge: told to the bus and fatal
                self.fail(error, f"answer to {type(event).__name__}")

        stamped = self._stamp(event, None)
        subject = ROUTE_OF[type(event)].subject(stamped)
        try:
            self.bus.inquire(subject, encode(stamped), answered, timeout_s=timeout_s)
        except BusError as error:
            asyncio.get_running_loop().call_soon(answered, error)

    def _stamp(self, event: Event, cause: EventId | None) -> Event:
        of_model = {"model": self.model} if getattr(event, "model", None) == "" else {}
        return msgspec.structs.replace(
            event,
            id=event.id or self.ctx.ids.event(),
            cause=event.cause or (self._cause if cause is None else cause),
            source=self.instance,
            at_ms=self.clock.wall_ms(),
            **of_model,
        )

    def run_effects(self, effects: Effects) -> None:
        """Carry out what a core asked for."""
        for effect in effects or ():
            match effect:
                case Publish(event):
                    self.emit(event)
                case WakeAt(at):
                    self._wake_at(at)
                case Do(name):
                    self.tasks.start(name, effect.run())
                case Note(level, text):
                    self.log.log(logging.getLevelNamesMapping()[level.upper()], text)

    def _wake_at(self, at: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = asyncio.get_running_loop().call_later(max(0.0, at - self.clock.now()), self._tick_now)

    def _tick_now(self) -> None:
        if not self._running:
            return
        try:
            self.run_effects(self.tick(self.clock.now()))
        except Exception as error:  # noqa: BLE001 - the edge: told to the bus and fatal
            self.fail(error, "tick")

    # -- hearing -------------------------------------------------------------------------------

    async def listen(self, event_types: Iterable[type[Event]], also: Iterable[SubscriptionOptions] = ()) -> None:
        """Subscribe to these events, in one round trip to the broker. `start` does this for `reads`."""
        self._subscriptions += await self.bus.subscribe_all([*map(self._hearing, event_types), *also])

    def _hearing(self, event_type: type[Event]) -> SubscriptionOptions:
        route = ROUTE_OF[event_type]
        handle = getattr(self, handler_name(event_type))
        handler = partial(self._receive, route, handle)
        return SubscriptionOptions(self.pattern(event_type), handler, route.group, when_full=route.when_full)

    def _receive(self, route: Route, handle: Callable[..., Effects], message: BusMessage) -> None:
        if not self._running:
            return
        event = decode_heard(route, message)
        if isinstance(event, Rejected):
            self.reject(message, event.reason)
            if route.delivery is Delivery.REQUEST:
                self._replier(message, EventId(""))(rejection(message, event.reason))
            return
        self._cause = event.id
        try:
            if route.delivery is Delivery.REQUEST:
                self.run_effects(handle(event, self._replier(message, event.id)))
            else:
                self.run_effects(handle(event))
            self.handled += 1
        except Exception as error:  # noqa: BLE001 - the edge: told to the bus and fatal
            self.fail(error, route.tag)
        finally:
            self._cause = EventId("")

    def _replier(self, message: BusMessage, cause: EventId) -> Reply:
        inbox = inbox_of_asker(message)

        def reply(event: Event) -> None:
            if inbox and self._running:
                self._publish(inbox, self._stamp(event, cause))

        return reply

    def reject(self, message: BusMessage, reason: str) -> None:
        """Count a message that could not be read, and publish that now and then."""
        told = self.unread.reject(message, reason)
        if told is not None:
            self.log.warning("message on %s left aside: %s", message.subject, reason)
            self.emit(told)

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Set up, subscribe, write the lease, and publish ServiceStarted."""
        self._started_ms = self.clock.wall_ms()
        await self.setup()
        async with self._turning:
            if self._stopping:  # `stop` was called during setup: close here what setup opened
                await self.teardown()
                return
            await self._go()

    async def _go(self) -> None:
        self._running = True
        at_once = [each for each in self.reads if each not in self.reads_later]
        await self.listen(at_once, also=MicroEndpoints(self).hearings())
        self._leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        if self.health is Health.STARTING:
            self.health = Health.OK
        await self.renew_lease()
        self.emit(ServiceStarted(service=self.name, node=self.ctx.node, pid=self.ctx.pid, version=twd.__version__))
        self.tasks.start("lease", every(LEASE_RENEW_S, self._renew))
        self.bus.on_back(self._start_registering)
        if self.tick_s is not None:
            self.tasks.start("tick", every(self.tick_s, self._ticked))

    async def _ticked(self) -> None:
        self._tick_now()

    async def _renew(self) -> None:
        for dropped in self.unread.dropped(self.bus.stats):
            self.emit(dropped)
        await self.renew_lease()

    def _start_registering(self) -> None:
        if self._running and not self._stopping:
            self.tasks.start("register again", self.register_again())

    async def register_again(self) -> None:
        """The bus is back after a loss: write into the registry at once, which may be empty."""
        await self.renew_lease()

    async def renew_lease(self) -> None:
        """Renew this service's lease. If the broker is away, the next renewal tries again."""
        if self._leases is None or self._stopping:
            return
        try:
            await self._leases.put(self.instance, msgspec.json.encode(self.lease()))
        except BusError as error:
            self.log.warning("the lease could not be renewed: %s", error)

    def lease(self) -> ServiceLease:
        """Return the content of this service's lease now."""
        return ServiceLease(
            service=self.name,
            instance=self.instance,
            node=self.ctx.node,
            pid=self.ctx.pid,
            version=twd.__version__,
            started_ms=self._started_ms,
            renewed_ms=self.clock.wall_ms(),
            health=self.health,
            note=self.note[:1024],
            facts=self.facts(),
        )

    async def drain(self, timeout_s: float = 30.0) -> None:
        """Finish the current work within `timeout_s` seconds, then stop."""
        if self._running and not self._stopping:
            self.health = Health.DRAINING
            await self.renew_lease()
            quiescing = self.tasks.start("quiesce", self.quiesce())  # cancelled with the service if that fails
            _, late = await asyncio.wait({quiescing}, timeout=timeout_s)
            if late:
                self.log.warning("drain took longer than %g s; stopping with work in hand", timeout_s)
        await self.stop("drained")

    async def stop(self, reason: str = "stopped") -> None:
        """Stop: close the subscriptions, tear down, end the tasks, delete the lease, publish ServiceStopped."""
        if self._stopping:
            await self.ended.wait()
            return
        self._stopping = True
        try:
            async with self._turning:
                await self._close(reason)
        finally:
            self._running = False
            self.ended.set()

    async def _close(self, reason: str) -> None:
        if self._wake is not None:
            self._wake.cancel()
        for subscription in self._subscriptions:
            await subscription.close()
        await self.teardown()
        leftover = await self.tasks.close()
        if leftover:
            self.log.warning("still running: %s", ", ".join(leftover))
        await self._leave(reason)

    async def _leave(self, reason: str) -> None:
        if not self.bus.connected:  # the lease expires by itself; do not wait for a broker that may not come back
            self.log.warning("could not say goodbye: the bus is away")
            return
        try:
            if self._leases is not None:
                await self._leases.delete(self.instance)
            self.emit(ServiceStopped(service=self.name, node=self.ctx.node, reason=reason))
            await self.bus.flush(2.0)
        except BusError as error:
            self.log.warning("could not say goodbye: %s", error)

    # -- faults --------------------------------------------------------------------------------

    def fail(self, error: BaseException, during: str) -> None:
        """Publish a fault with its cause and end the service."""
        if self.fault is not None or self._stopping:
            self.log.error("another fault in %s: %r", during, error)
            return
        self.tell_fault(error, during)
        self._end_over(error, "fault")

    def tell_fault(self, error: BaseException, during: str) -> None:
        """Publish a fault with its cause; does not end the service."""
        self.log.error("fault in %s: %s", during, "".join(traceback.format_exception(error)))
        failure = error.failure if isinstance(error, TwdError) else internal(error)
        self.emit(ServiceFaulted(service=self.name, node=self.ctx.node, failure=failure, during=during))

    def give_up(self, error: TwdError, reason: str) -> None:
        """End the service after a failure that was published already; the supervisor starts it again."""
        if self.fault is None and not self._stopping:
            self._end_over(error, reason)

    def _end_over(self, error: BaseException, reason: str) -> None:
        self.fault = error
        start_unowned(f"{self.name}:{reason}", self.stop(reason))

    def _task_failed(self, name: str, error: BaseException) -> None:
        self.fail(error, name)
