"""Questions about what happened and how things stand, answered by the metrics service."""

from typing import Annotated

import msgspec
from msgspec import Meta

from twd.wire.base import Count, Event, JobId


class TraceRequested(Event, frozen=True, tag="twd.v1.trace.requested"):
    """Tell the story of a job. Answered by TraceReported."""

    job: JobId


class TraceReported(Event, frozen=True, tag="twd.v1.trace.reported"):
    """Every event of one job that is still remembered, oldest first."""

    job: JobId
    events: list[msgspec.Raw] = []
    forgotten: Count = 0


class HistoryRequested(Event, frozen=True, tag="twd.v1.history.requested"):
    """List the jobs that ended lately. Answered by HistoryReported."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class HistoryReported(Event, frozen=True, tag="twd.v1.history.reported"):
    """Ended jobs, newest first: each is its JobFinished or JobFailed."""

    events: list[msgspec.Raw] = []


class MetricsRequested(Event, frozen=True, tag="twd.v1.metrics.requested"):
    """Show all counters and gauges. Answered by MetricsReported."""


class MetricsReported(Event, frozen=True, tag="twd.v1.metrics.reported"):
    """All counters and gauges in Prometheus' text format, version 0.0.4."""

    text: str
