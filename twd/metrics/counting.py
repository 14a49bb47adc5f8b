"""Turns events into metrics: what each event adds to which metric."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from twd.kit.jobs.owner import LOSSES
from twd.metrics import families as f
from twd.metrics.families import LabelValues, MetricValues
from twd.metrics.judging import Judgements
from twd.metrics.lives import JobLife, JobLives
from twd.metrics.rings import RingCounters
from twd.pools.transfers import TransfersView
from twd.wire.base import Event, ModelId
from twd.wire.draft import DrafterAttached, DraftProposed
from twd.wire.failures import FailureCode
from twd.wire.job import (
    CALIBRATION,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStats,
    TokensAccepted,
)
from twd.wire.judging import AnswerAudited, AnswerJudged, ModeClosed
from twd.wire.model import ModelFailed
from twd.wire.ring import FrameRefused, RingMeasured
from twd.wire.routes import route_of_subject
from twd.wire.service import MessageDropped, MessageRejected, ServiceExited, ServiceFaulted, ServiceStarted
from twd.wire.swarm import PeerBanned, PullFailed, PullFinished, PullProgressed

NAMES_MAX: Final = 50
SERVICES_MAX: Final = 100
POSITIONS_MAX: Final = 16
DRAFTERS_KEPT: Final = 1024


class EventCounter:
    """Counters and histograms of all events. Jobs that only measure drafters are left out."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.figures = MetricValues()
        self.lives = JobLives()
        self.models = LabelValues(NAMES_MAX, models)
        self.transfers = TransfersView()
        self.rings = RingCounters(self.figures, self.models)
        self.judgements = Judgements(self.figures, self.models)
        self.services = LabelValues(SERVICES_MAX)
        self.nodes = LabelValues(SERVICES_MAX)
        self._drafter_labels = LabelValues(NAMES_MAX, ["ngram", "prediction", "grammar", "recall"])
        self._drafters: OrderedDict[str, str] = OrderedDict()

    def drafter(self, instance: str) -> str:
        """The label of a drafter: its model and machine, because its instance name changes with every start."""
        known = self._drafters.get(instance)
        if known is None:
            service, _, node = instance.rpartition(".")[0].partition(".")
            known = f"{service}@{node}" if node else instance
        return self._drafter_labels.of(known)

    def meet(self, instance: str, model: str) -> None:
        """A drafter announces its model."""
        _, _, node = instance.rpartition(".")[0].partition(".")
        self._drafters[instance] = f"{model}@{node}" if node else model
        if len(self._drafters) > DRAFTERS_KEPT:
            self._drafters.popitem(last=False)

    def named(self, event: JobFinished | JobFailed) -> JobFinished | JobFailed:
        """The end of a job as it is kept: with names of its model and drafters that stay valid after their processes
        end.
        """
        shares = [replace(share, drafter=self._lasting(share.drafter)) for share in event.stats.drafters]
        life = self.lives.open.get(event.job)
        model = event.model or ModelId(life.model if life else "")
        return replace(event, model=model, stats=replace(event.stats, drafters=shares))

    def _lasting(self, drafter: str) -> str:
        return drafter if "@" in drafter else self.drafter(drafter)

    def hear(self, event: Event, now: float) -> None:
        """Count one event."""
        job: str = getattr(event, "job", "")
        if job.startswith(CALIBRATION):
            return
        match event:
            case JobStarted() | TokensAccepted() | JobCancelled() | JobFinished() | JobFailed():
                self._job(event, now)
            case DraftProposed():
                self.figures.add(f.PROPOSED, self.drafter(event.drafter), by=len(event.tokens))
            case DrafterAttached():
                self.meet(event.drafter, event.model)
            case ModelFailed():
                self.figures.add(f.MODEL_FAILURES, self.models.of(event.model), event.failure.code)
            case RingMeasured():
                self.rings.hear(event, now)
            case AnswerJudged() | AnswerAudited() | ModeClosed():
                self.judgements.hear(event)
            case PullProgressed() | PullFinished() | PullFailed() | PeerBanned():
                self.transfers.hear(event, now)
                self._swarm(event)
            case _:
                self._house(event)

    def sweep(self, now: float) -> None:
        """Count jobs that ended without an event."""
        for life, code in self.lives.sweep(now):
            self._ended(life, code)
        self.figures.put(f.RING_RTT, self.rings.rtts(now))
        self.figures.put(f.PULL_LEFT, self._left(now))

    # -- jobs ----------------------------------------------------------------------------------

    def _job(self, event: Event, now: float) -> None:
        match event:
            case JobStarted():
                self._started(event, now)
            case TokensAccepted():
                self._grew(event, now)
            case JobCancelled():
                self.lives.cancel(event, now)
            case JobFinished():
                self._over(event, event.reason.value)
            case JobFailed():
                self._failed(event, now)

    def _started(self, event: JobStarted, now: float) -> None:
        life, taken_over = self.lives.start(event, self.models.of(event.model), now)
        if life is None:
            return
        self.figures.add(f.PROMPT_TOKENS, life.model, by=event.prompt_tokens)
        self.figures.add(f.CACHED_TOKENS, life.model, by=event.cached_tokens)
        if taken_over:
            self.figures.add(f.TAKEOVERS, life.model)

    def _grew(self, event: TokensAccepted, now: float) -> None:
        grown = self.lives.grow(event, now)
        if grown is not None:
            life, new, pause_ms = grown
            self.figures.add(f.TOKENS, life.model, by=new)
            if pause_ms is not None:
                self.figures.observe(f.TOKEN_GAP, life.model, value=pause_ms / 1000)

    def _failed(self, event: JobFailed, now: float) -> None:
        code = event.failure.code
        if code is not FailureCode.CANCELLED and (event.failure.retry or code in LOSSES):
            self.lives.lose(event.job, event.attempt, code, now)
        else:
            self._over(event, code.value)

    def _over(self, event: JobFinished | JobFailed, code: str) -> None:
        life = self.lives.end(event.job, event.attempt)
        if life is None:
            return
        life.model = life.model or "unknown"
        self._times(life, event)
        self._work(life, event.stats)
        if isinstance(event, JobFinished):
            self.figures.add(f.JOBS, life.model, "finished", code)
            self.judgements.ended(event, life.model)
        else:
            self._ended(life, FailureCode(code))

    def _ended(self, life: JobLife, code: FailureCode) -> None:
        outcome = "cancelled" if code is FailureCode.CANCELLED else "failed"
        self.figures.add(f.JOBS, life.model, outcome, code.value)

    def _times(self, life: JobLife, event: JobFinished | JobFailed) -> None:
        """Use the worker's own times; if several workers had the job, use the time stamps of its events."""
        stats = event.stats
        queued, first = stats.queued_ms, stats.queued_ms + stats.prefill_ms
        whole = first + stats.decode_ms
        if event.attempt > 1 and life.started_ms:
            first, whole = life.first_ms - life.started_ms, event.at_ms - life.started_ms
        self.figures.observe(f.QUEUE_WAIT, life.model, value=queued / 1000)
        self.figures.observe(f.DURATION, life.model, value=whole / 1000)
        if stats.completion_tokens:
            self.figures.observe(f.FIRST_TOKEN, life.model, value=first / 1000)

    def _work(self, life: JobLife, stats: JobStats) -> None:
        model = life.model
        self.figures.add(f.TOKENS, model, by=stats.completion_tokens - life.tokens)  # those reported only at the end
        self.figures.add(f.PASSES, model, by=stats.passes)
        self.figures.add(f.DECODED_TOKENS, model, by=stats.completion_tokens - life.resumed)
        self.figures.add(f.DECODE_SECONDS, model, by=stats.decode_ms / 1000)
        for share in stats.drafters:
            self.figures.add(f.CHECKED, model, self.drafter(share.drafter), by=share.checked)
            self.figures.add(f.ACCEPTED, model, self.drafter(share.drafter), by=share.taken)
        for family, counts in ((f.CHECKED_AT, stats.checked_at), (f.ACCEPTED_AT, stats.taken_at)):
            for place, count in enumerate(counts):
                self.figures.add(family, model, position(place), by=count)

    # -- the system -----------------------------------------------------------------------------

    def _house(self, event: Event) -> None:
        figures = self.figures
        match event:
            case MessageRejected():
                # sent at 1, 2, 4, 8 ...: each event counts all since the one before
                figures.add(f.REJECTED, event_name(event.subject), by=event.repeated - event.repeated // 2)
            case MessageDropped():
                figures.add(f.DROPPED, event_name(event.subject), by=event.count)
            case ServiceStarted():
                figures.add(f.STARTS, self.services.of(event.service))
            case ServiceFaulted():
                figures.add(f.FAULTS, self.services.of(event.service), event.failure.code)
            case ServiceExited():
                figures.add(f.EXITS, self.services.of(event.service))
                if event.retry_in_ms >= 0:
                    figures.add(f.RESTARTS, self.services.of(event.service))
            case FrameRefused():
                figures.add(f.FRAMES_REFUSED, event.fault, by=event.repeated - event.repeated // 2)
            case _:
                return

    def _left(self, now: float) -> dict[tuple[str, ...], float]:
        left: dict[tuple[str, ...], float] = {}
        for one in self.transfers.states(now):
            node = (self.nodes.of(one.node),)
            left[node] = left.get(node, 0.0) + max(0, one.total_bytes - one.done_bytes)
        return left

    def _swarm(self, event: PullProgressed | PullFinished | PullFailed | PeerBanned) -> None:
        node = self.nodes.of(event.node)
        match event:
            case PullFinished():
                self.figures.add(f.PULLS, node, "finished")
                self.figures.add(f.PULLED_BYTES, node, by=event.fetched_bytes)
                self.figures.add(f.PULL_WASTE, node, by=event.wasted_bytes)
            case PullFailed():
                self.figures.add(f.PULLS, node, event.failure.code.value)
            case PeerBanned():
                self.figures.add(f.PEERS_BANNED, node)


def position(place: int) -> str:
    """A position in a window, from 1; all far positions share one label."""
    return str(place + 1) if place < POSITIONS_MAX else f"{POSITIONS_MAX + 1}+"


def event_name(subject: str) -> str:
    """The name of the event on a subject, such as `job.started`; a subject may contain anything."""
    route = route_of_subject(subject)
    return route.tag.split(".", 2)[2] if route else f.OTHER
