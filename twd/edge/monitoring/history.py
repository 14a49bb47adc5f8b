"""HTTP handlers for live events, history, traces and metrics."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from twd.bus.base import NoResponders
from twd.edge.auth.job_owners import OwnedJobs, require_whole_view
from twd.edge.auth.middleware import principal_of
from twd.edge.http import sse
from twd.edge.http.replies import end_stream, json_reply, open_stream, write
from twd.edge.http.validation import is_number
from twd.edge.monitoring.feed import TOPICS, EventFeed, FeedWatcher
from twd.edge.monitoring.redact import redacted
from twd.edge.monitoring.status_types import JobHistory, JobTrace
from twd.kit.tasks import heard
from twd.wire.base import Event, JobId
from twd.wire.codec import Rejected
from twd.wire.failures import FailureCode, TwdError
from twd.wire.trace import (
    HistoryReported,
    HistoryRequested,
    MetricsReported,
    MetricsRequested,
    TraceReported,
    TraceRequested,
)

PACE_S = 0.1
"""Seconds between two batches of live events."""
COMPLETION_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")

LIMIT_MAX = 1000

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Ask = Callable[[Event], Awaitable[Event | Rejected]]


class HistoryHandlers:
    """Live and past events."""

    def __init__(self, feed: EventFeed, owned: OwnedJobs, ask: Ask, keepalive_s: float, keep_words: bool) -> None:
        self.feed = feed
        self._owned = owned
        self._ask = ask
        self._keepalive_s = keepalive_s
        self._keep_words = keep_words

    def routes(self) -> list[web.RouteDef]:
        """The routes of these handlers."""
        return [
            web.get("/v1/twd/events", self.events, allow_head=False),
            web.get("/v1/twd/history", self.history),
            web.get("/v1/twd/jobs/{job}", self.trace),
            web.get("/metrics", self.metrics),
        ]

    # -- live ----------------------------------------------------------------------------------

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/twd/events: live events; `topics=job,model` and `job=ID` filter them."""
        principal = principal_of(request)
        watcher = FeedWatcher(
            _topics(request.query.get("topics", "")),
            request.query.get("job", ""),
            principal.name or request.remote or "",
            partial(self._owned.may_see, principal.key),
        )
        await self.feed.attach(watcher)
        try:
            return await self._stream(request, watcher)
        finally:
            await self.feed.detach(watcher)

    async def _stream(self, request: web.Request, watcher: FeedWatcher) -> web.StreamResponse:
        response = await open_stream(request, {})
        await write(request, response, b": twd events\n\n")
        while not watcher.closed:
            if not await heard(watcher.stirred, self._keepalive_s):
                await write(request, response, sse.KEEP_ALIVE)
                continue
            await write(request, response, _batch(watcher))
            await asyncio.sleep(PACE_S)
        await end_stream(request, response)
        return response

    # -- past ----------------------------------------------------------------------------------

    async def history(self, request: web.Request) -> web.Response:
        """GET /v1/twd/history: ended jobs, newest first."""
        limit, key = _limit(request.query.get("limit", "50")), principal_of(request).key
        answer = await self._asked(HistoryRequested(limit=LIMIT_MAX if key is not None and key.models else limit))
        if not isinstance(answer, HistoryReported):
            raise _no_sense(answer)
        jobs = [job for event in answer.events if self._owned.may_see(key, job := self._shown(event))]
        return json_reply(JobHistory(jobs=jobs[:limit]))

    async def trace(self, request: web.Request) -> web.Response:
        """GET /v1/twd/jobs/{id}: every event of one job; the id of an answer works, too."""
        job = request.match_info["job"][:200]
        for prefix in COMPLETION_PREFIXES:
            job = job.removeprefix(prefix)
        if not self._owned.may_see_job(principal_of(request).key, job):
            raise NotRemembered(job)
        answer = await self._asked(TraceRequested(job=JobId(job)))
        if not isinstance(answer, TraceReported):
            raise _no_sense(answer)
        if not answer.events:
            raise NotRemembered(job)
        return json_reply(JobTrace(job=job, events=[self._shown(e) for e in answer.events], forgotten=answer.forgotten))

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics: all counters and gauges, for Prometheus."""
        require_whole_view(principal_of(request).key, "the metrics")
        answer = await self._asked(MetricsRequested())
        if not isinstance(answer, MetricsReported):
            raise _no_sense(answer)
        return web.Response(body=answer.text.encode(), headers={"Content-Type": METRICS_TYPE})

    async def _asked(self, question: Event) -> Event | Rejected:
        try:
            return await self._ask(question)
        except NoResponders:
            text = "no metrics service runs, so nobody remembers; start one with `twd run metrics`"
            raise TwdError(FailureCode.NOBODY_HOME, text) from None

    def _shown(self, event: msgspec.Raw) -> dict[str, Any]:
        return redacted(event, keep_words=self._keep_words)


class NotRemembered(TwdError):
    """No event of this job is kept; answered with 404."""

    def __init__(self, job: str) -> None:
        super().__init__(FailureCode.BAD_REQUEST, f"nothing is remembered of job {job!r}", "job")


def _batch(watcher: FeedWatcher) -> bytes:
    pieces = [sse.event(event, tag) for tag, event in watcher.take()]
    if watcher.dropped:
        pieces.append(sse.event({"dropped": watcher.dropped}, "dropped"))
        watcher.dropped = 0
    return b"".join(pieces)


def _topics(text: str) -> frozenset[str]:
    topics = frozenset(topic.strip() for topic in text.split(",") if topic.strip())
    if unknown := topics - TOPICS:
        words = f"unknown topic {min(unknown)[:50]!r}; there are {', '.join(sorted(TOPICS))}"
        raise TwdError(FailureCode.BAD_REQUEST, words, "topics")
    return topics


def _limit(text: str) -> int:
    if not is_number(text) or not 1 <= int(text) <= LIMIT_MAX:
        raise TwdError(FailureCode.BAD_REQUEST, f"limit must be a number from 1 to {LIMIT_MAX}", "limit")
    return int(text)


def _no_sense(answer: Event | Rejected) -> TwdError:
    reason = answer.reason if isinstance(answer, Rejected) else type(answer).__name__
    return TwdError(FailureCode.BACKEND_BROKEN, f"the metrics service's answer makes no sense: {reason}")
