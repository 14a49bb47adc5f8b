"""Received messages of one connection that wait for their handlers: limited, and in order of arrival."""

import asyncio
import contextvars
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from twd.bus.base import BusMessage, BusStats, Handler
from twd.wire.routes import WhenFull

LISTENER_BYTES_MAX: Final = 128 * 1024 * 1024

log = logging.getLogger("twd.bus")


@dataclass(eq=False, slots=True)
class Listener:
    """One subscription's handler and its share of the inbox."""

    pattern: str
    handler: Handler
    queue: str = ""
    limit: int = 65536
    when_full: WhenFull = WhenFull.DROP_NEWEST
    open: bool = True
    waiting: deque[int] = field(default_factory=deque)
    waiting_bytes: int = 0

    def full(self, size: int) -> bool:
        """Return whether there is no room for a message of `size` bytes."""
        return len(self.waiting) >= self.limit or self.waiting_bytes + size > LISTENER_BYTES_MAX


class Inbox:
    """Passes waiting messages to their handlers, `batch` of them in one turn of the event loop."""

    def __init__(self, stats: BusStats, batch: int = 32) -> None:
        self._stats = stats
        self._batch = batch
        self._waiting: OrderedDict[int, tuple[Listener, BusMessage]] = OrderedDict()
        self._arrivals = 0
        self._at_once = 0
        self._scheduled = False
        self._paused = False
        self._context = contextvars.copy_context()  # handlers run in the context of the code that connected

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, listener: Listener, message: BusMessage) -> None:
        """Queue a message; if there is no room, one is dropped by the listener's policy and counted."""
        if not listener.open:
            return
        size = len(message.data)
        while listener.full(size):
            self._count_drop(listener)
            if listener.when_full is not WhenFull.DROP_OLDEST or not listener.waiting:
                return
            self._take(listener.waiting[0])
        self._arrivals += 1
        self._waiting[self._arrivals] = (listener, message)
        listener.waiting.append(self._arrivals)
        listener.waiting_bytes += size
        self._schedule()

    def receive(self, listener: Listener, message: BusMessage) -> None:
        """Like `put`, but if no message waits, the handler runs at once; call it only where no handler runs.

        This saves a turn of the loop for a single message; many messages at once are still queued.
        """
        if self._waiting or self._paused or self._at_once >= self._batch or not listener.open:
            self.put(listener, message)
        else:
            self._at_once += 1
            self._context.run(self._handle, listener, message)

    def shut(self, listener: Listener) -> None:
        """Remove a listener and its waiting messages."""
        listener.open = False
        while listener.waiting:
            self._take(listener.waiting[0])

    def clear(self) -> None:
        """Drop all waiting messages."""
        for number in list(self._waiting):
            self._take(number)

    @property
    def paused(self) -> bool:
        """Whether messages are not handled for now."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._schedule()

    def handle_all(self) -> None:
        """Handle all messages that wait now, in this turn of the loop."""
        for _ in range(len(self._waiting)):
            if self._waiting and not self._paused:
                self._handle_first()

    def _count_drop(self, listener: Listener) -> None:
        self._stats.dropped += 1
        by_subject = self._stats.dropped_by_subject
        by_subject[listener.pattern] = by_subject.get(listener.pattern, 0) + 1

    def _take(self, number: int) -> tuple[Listener, BusMessage]:
        listener, message = self._waiting.pop(number)
        listener.waiting.popleft()
        listener.waiting_bytes -= len(message.data)
        return listener, message

    def _schedule(self) -> None:
        if not self._scheduled and not self._paused and self._waiting:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump, context=self._context)

    def _pump(self) -> None:
        self._scheduled, self._at_once = False, 0
        try:
            for _ in range(self._batch):
                if self._paused or not self._waiting:
                    return
                self._handle_first()
        finally:
            self._schedule()

    def _handle_first(self) -> None:
        self._handle(*self._take(next(iter(self._waiting))))

    def _handle(self, listener: Listener, message: BusMessage) -> None:
        self._stats.received += 1
        try:
            listener.handler(message)
        except Exception as error:  # a fault of one handler must not silence the others
            self._stats.errors += 1
            self._stats.last_error = f"{type(error).__name__}: {error}"
            log.exception("the handler of %s failed on a message on %s", listener.pattern, message.subject)
