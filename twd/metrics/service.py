"""The metrics service: reads every broadcast event, keeps those of jobs, counts them, and answers requests for them."""

import asyncio

import msgspec

import twd
from twd.bus.base import BusError, BusMessage, Leases, SubscriptionOptions
from twd.kit.messages.heard_events import heard_event
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, Service, ServiceContext
from twd.kit.tasks import every
from twd.metrics import gauges
from twd.metrics.core import JobMemory
from twd.metrics.counting import EventCounter
from twd.metrics.exposition import Exposition
from twd.metrics.families import IN_PROGRESS, UNREAD
from twd.metrics.job_log import JobLog
from twd.settings.model import Settings
from twd.wire.codec import Rejected, encode
from twd.wire.job import CALIBRATION, JobFailed, JobFinished
from twd.wire.leases.others import MetricsFacts
from twd.wire.routes import BROADCASTS
from twd.wire.service import Health, read_lease
from twd.wire.trace import (
    HistoryReported,
    HistoryRequested,
    MetricsReported,
    MetricsRequested,
    TraceReported,
    TraceRequested,
)

LOOK_S = 3.0
"""Seconds between two reads of the registry."""


class MetricsService(Service):
    """Remembers jobs, tells their stories, and counts."""

    name = "metrics"
    reads = (TraceRequested, HistoryRequested, MetricsRequested)
    writes = (TraceReported, HistoryReported, MetricsReported)
    tick_s = 5.0

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        super().__init__(ctx)
        self.memory = JobMemory(settings.metrics.history)
        self.counting = EventCounter(settings.served())
        self._exposition = Exposition(self.counting.figures)
        self._job_log = JobLog(settings.home_dir / "history", settings.metrics.history)
        self._unwritten: list[bytes] = []
        self._keep_words = settings.log.show_text
        self._registry: Leases | None = None

    async def setup(self) -> None:
        """Load the history and subscribe to every broadcast."""
        self._recall()
        self._registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        await self.bus.subscribe_all(
            [SubscriptionOptions(one.pattern, self._hear, when_full=one.when_full) for one in BROADCASTS]
        )
        await self._look()
        self.tasks.start("look", every(LOOK_S, self._look))

    def _recall(self) -> None:
        """Load how the jobs of earlier runs ended."""
        try:
            self.note = self._job_log.load()
        except OSError as error:
            self._cannot_keep(error)
            return
        if self.note:
            self.log.warning("%s", self.note)
        for end in self._job_log.ends:
            named = self.counting.named(end)
            self.memory.recall(named, encode(named))

    def _hear(self, message: BusMessage) -> None:
        event = heard_event(message)
        if isinstance(event, Rejected):
            self.counting.figures.add(UNREAD)
            self.reject(message, event.reason)  # some broadcasts have no other reader that would report it
            return
        if isinstance(event, JobFinished | JobFailed) and not event.job.startswith(CALIBRATION):
            kept = self.counting.named(event)
            self.memory.hear(kept, encode(kept))
            self._keep(kept)
        else:
            self.memory.hear(event, message.data)
        self.counting.hear(event, self.clock.now())

    def _keep(self, event: JobFinished | JobFailed) -> None:
        if isinstance(event, JobFinished) and not self._keep_words:
            event = msgspec.structs.replace(event, tail="", stop="")
        if not self._unwritten:  # jobs that end together are written together
            asyncio.get_running_loop().call_soon(self._write_down)
        self._unwritten.append(encode(event))

    def _write_down(self) -> None:
        ends, self._unwritten = self._unwritten, []
        try:
            self._job_log.append(*ends)
        except OSError as error:
            self._cannot_keep(error)

    async def teardown(self) -> None:
        """Write everything that is not written yet."""
        self._write_down()

    def _cannot_keep(self, error: OSError) -> None:
        """The disk is full or read-only: history is kept in memory only, and the note says so."""
        if self.health is not Health.DEGRADED:
            self.health, self.note = Health.DEGRADED, f"the history of jobs cannot be kept: {error}"
            self.log.warning("%s", self.note)

    async def _look(self) -> None:
        """Read the facts of all services from the registry."""
        if self._registry is None:
            return
        try:
            entries = await self._registry.entries()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        leases = [lease for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
        gauges.refresh(self.counting, leases, twd.__version__)

    def tick(self, now: float) -> Effects:
        """Count jobs that ended without an event."""
        self.counting.sweep(now)
        return None

    def facts(self) -> MetricsFacts:
        """How many entries are kept."""
        sizes, unread = self.memory.sizes, int(self.counting.figures.value(UNREAD))
        return MetricsFacts(stories=sizes["stories"], bytes=sizes["bytes"], ended=sizes["ended"], unread=unread)

    def on_trace_requested(self, event: TraceRequested, reply: Reply) -> Effects:
        """Return the events of one job."""
        story = self.memory.story(event.job)
        reply(
            TraceReported(job=event.job, events=[msgspec.Raw(data) for data in story.events], forgotten=story.forgotten)
        )
        return None

    def on_history_requested(self, event: HistoryRequested, reply: Reply) -> Effects:
        """Return the jobs that ended lately."""
        reply(HistoryReported(events=[msgspec.Raw(data) for data in self.memory.history(event.limit)]))
        return None

    def on_metrics_requested(self, event: MetricsRequested, reply: Reply) -> Effects:
        """Return all metrics."""
        self.counting.figures.put(IN_PROGRESS, gauges.in_progress(self.counting))
        reply(MetricsReported(text=self._exposition.text()))
        return None
