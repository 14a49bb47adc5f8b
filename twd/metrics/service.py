"""Hears everything that is broadcast, remembers what belongs to jobs, answers who asks."""

import msgspec

from twd.bus.base import Message
from twd.kit.service import Effects, Reply, Service, Surroundings
from twd.kit.settings import Settings
from twd.metrics.core import Memory
from twd.wire.base import Event
from twd.wire.codec import Rejected, decode, encode
from twd.wire.draft import SessionOpened
from twd.wire.routes import ROUTES, Delivery
from twd.wire.trace import HistoryReported, HistoryRequested, TraceReported, TraceRequested


class Metrics(Service):
    """Remembers jobs and tells their stories."""

    name = "metrics"
    reads = (TraceRequested, HistoryRequested)
    writes = (TraceReported, HistoryReported)

    def __init__(self, ground: Surroundings, settings: Settings) -> None:
        super().__init__(ground)
        self.memory = Memory(settings.metrics.history)
        self.unread = 0

    async def setup(self) -> None:
        """Listen to every broadcast. Not to requests: an ear there would hide that nobody is home."""
        for route in ROUTES:
            if route.delivery is Delivery.BROADCAST:
                await self.bus.subscribe(route.pattern, self._hear, when_full=route.when_full)

    def _hear(self, message: Message) -> None:
        event = decode(message.data)
        if isinstance(event, Rejected):
            self.unread += 1  # told by the service for whom it was meant
            return
        self.memory.hear(event, _lean(event, message.data))

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """How much it remembers."""
        return {**self.memory.sizes, "unread": self.unread}

    def on_trace_requested(self, event: TraceRequested, reply: Reply) -> Effects:
        """Tell one job's story."""
        story = self.memory.story(event.job)
        reply(
            TraceReported(job=event.job, events=[msgspec.Raw(data) for data in story.events], forgotten=story.forgotten)
        )
        return None

    def on_history_requested(self, event: HistoryRequested, reply: Reply) -> Effects:
        """List the jobs that ended lately."""
        reply(HistoryReported(events=[msgspec.Raw(data) for data in self.memory.history(event.limit)]))
        return None


def _lean(event: Event, data: bytes) -> bytes:
    """A prompt is long, and is no part of the story."""
    return encode(msgspec.structs.replace(event, tokens=[], text="")) if isinstance(event, SessionOpened) else data
