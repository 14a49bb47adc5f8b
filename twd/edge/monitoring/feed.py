"""Live events for browsers: events from the bus, limited and merged for each watcher."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from twd.bus.base import PAYLOAD_BYTES_MAX, Bus, BusMessage, Subscription, SubscriptionOptions
from twd.edge.monitoring.redact import redacted
from twd.wire.draft import DraftGranted, DraftProposed
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import TokensAccepted
from twd.wire.model import ModelLoading
from twd.wire.routes import BROADCASTS, ROUTE_OF, route_of_subject

PENDING_MAX = 1024
PENDING_BYTES_MAX = PAYLOAD_BYTES_MAX
"""The most bytes that wait for one watcher; the largest possible message fits."""
WATCHERS_MAX = 64
NEWEST_ONLY = {ROUTE_OF[event].tag for event in (TokensAccepted, DraftProposed, DraftGranted, ModelLoading)}
"""Of these events, only the newest for each job, session or model is kept while a watcher is slow."""


def topic_of(tag: str) -> str:
    """The topic of an event: `twd.v1.job.started` has the topic `job`."""
    return tag.split(".")[2]


TOPICS = frozenset(topic_of(route.tag) for route in BROADCASTS)


class FeedWatcher:
    """One browser that watches live events. If it is too slow, the oldest events are dropped and counted."""

    def __init__(
        self,
        topics: frozenset[str],
        job: str,
        owner: str = "",
        may_see: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.owner = owner
        self._topics = topics
        self._job = job
        self._may_see = may_see or (lambda event: True)
        self._pending: dict[object, tuple[str, bytes]] = {}
        self._count = 0
        self._bytes = 0
        self.dropped = 0
        self.closed = False
        self.stirred = asyncio.Event()

    def offer(self, tag: str, message: BusMessage) -> None:
        """Keep a message for this watcher if its topics include it."""
        if self._topics and topic_of(tag) not in self._topics:
            return
        self._count += 1
        key: object = message.subject if tag in NEWEST_ONLY else self._count
        if key in self._pending:
            self._forget(key)
        self._pending[key] = (tag, message.data)
        self._bytes += len(message.data)
        while len(self._pending) > PENDING_MAX or self._bytes > PENDING_BYTES_MAX:
            self._forget(next(iter(self._pending)))
            self.dropped += 1
        self.stirred.set()

    def _forget(self, key: object) -> None:
        self._bytes -= len(self._pending.pop(key)[1])

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """All waiting events, oldest first, with their type; texts and tokens are removed."""
        waiting, self._pending, self._bytes = list(self._pending.values()), {}, 0
        self.stirred.clear()
        events = [(tag, redacted(data)) for tag, data in waiting]
        return [(tag, event) for tag, event in events if event and self._wants(event)]

    def _wants(self, event: Mapping[str, Any]) -> bool:
        return self._job in ("", event.get("job")) and self._may_see(event)

    def close(self) -> None:
        """No more events will come."""
        self.closed = True
        self.stirred.set()


class EventFeed:
    """All watchers. The bus subscription exists only while there are watchers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._watchers: dict[FeedWatcher, None] = {}
        self._subscriptions: list[Subscription] = []
        self._lock = asyncio.Lock()
        self._closed = False

    async def attach(self, watcher: FeedWatcher) -> None:
        """Add a watcher; raises TwdError if there are too many."""
        async with self._lock:
            if len(self._watchers) >= WATCHERS_MAX:
                self._make_room(watcher.owner)
            if not self._subscriptions:
                self._subscriptions = await self._bus.subscribe_all(
                    [SubscriptionOptions(one.pattern, self._hear) for one in BROADCASTS]
                )
            self._watchers[watcher] = None
        if self._closed:
            watcher.close()

    def _make_room(self, owner: str) -> None:
        """The places are shared fairly: the owner with the most places loses its oldest one, if it still has at least
        as many as the new owner would have.
        """
        places = Counter(watcher.owner for watcher in self._watchers)
        largest, most = places.most_common(1)[0]
        if most <= places[owner] + 1:
            text = f"{WATCHERS_MAX} clients watch live events already; close one of them, or come back later"
            raise TwdError(FailureCode.BUSY, text)
        oldest = next(watcher for watcher in self._watchers if watcher.owner == largest)
        self._watchers.pop(oldest)
        oldest.close()

    async def detach(self, watcher: FeedWatcher) -> None:
        """Remove a watcher; after the last one the subscription is closed."""
        async with self._lock:
            self._watchers.pop(watcher, None)
            if self._watchers:
                return
            for subscription in self._subscriptions:
                await subscription.close()
            self._subscriptions = []

    def close(self) -> None:
        """Close all watchers, because the edge drains."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()

    def _hear(self, message: BusMessage) -> None:
        route = route_of_subject(message.subject)
        if route is None:
            return
        for watcher in self._watchers:
            watcher.offer(route.tag, message)
