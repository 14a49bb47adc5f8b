"""Jobs in progress, as an observer sees them: which attempt is current, which tokens are new, and
when a job has ended.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from twd.wire.base import JobId
from twd.wire.failures import FailureCode
from twd.wire.job import JobCancelled, JobStarted, TokensAccepted

OPEN_MAX: Final = 4096
ENDED_MAX: Final = 4096
GRACE_S: Final = 60.0
"""Seconds for another worker to take over a job before it counts as failed."""
SILENT_S: Final = 900.0
"""A job without any event for this many seconds counts as ended."""


@dataclass(slots=True)
class JobLife:
    """One job. Fields that end in `_ms` are milliseconds of its workers' clocks; `heard` is seconds of
    our own clock.
    """

    model: str
    attempt: int
    started_ms: int
    heard: float
    place: int = 0
    """The index where the next piece belongs; a piece without tokens, as other programs' servers send them, counts as
    one.
    """
    tokens: int = 0
    """The number of tokens that were counted."""
    resumed: int = 0
    """How many of them came from earlier attempts."""
    first_ms: int = 0
    last_ms: int = 0
    lost: FailureCode | None = None


@dataclass
class JobLives:
    """All jobs that have started and not ended, and the names of some that have."""

    open: OrderedDict[JobId, JobLife] = field(default_factory=OrderedDict)
    _ended: OrderedDict[JobId, None] = field(default_factory=OrderedDict)

    def start(self, event: JobStarted, model: str, now: float) -> tuple[JobLife | None, bool]:
        """A job starts, or another worker takes it over. Returns the job, or None if the event is not new, and whether
        it was taken over.
        """
        if event.job in self._ended:
            return None, False
        life = self.open.get(event.job)
        if life is None:
            if len(self.open) >= OPEN_MAX:
                self.open.popitem(last=False)
            life = self.open[event.job] = JobLife(model, event.attempt, event.at_ms, now)
            return life, False
        if event.attempt <= life.attempt:
            return None, False
        life.attempt, life.lost, life.heard, life.resumed = event.attempt, None, now, life.tokens
        return life, True

    def grow(self, event: TokensAccepted, now: float) -> tuple[JobLife, int, int | None] | None:
        """A job got tokens. Returns the job, the number of new tokens, and the pause before them in milliseconds (None
        for the first ones); None if the event is not new.
        """
        life = self.open.get(event.job)
        end = event.index + (len(event.tokens) or int(event.text != ""))
        if life is None or event.attempt != life.attempt or end <= life.place:
            return None
        new = min(end - life.place, len(event.tokens))
        pause = max(0, event.at_ms - life.last_ms) if life.first_ms else None
        life.place, life.last_ms, life.heard = end, event.at_ms, now
        life.tokens, life.first_ms = life.tokens + new, life.first_ms or event.at_ms
        return life, new, pause

    def end(self, job: JobId, attempt: int) -> JobLife | None:
        """A job has ended; None if that was known, or if an earlier attempt ended."""
        life = self.open.get(job)
        if job in self._ended or (life is not None and attempt < life.attempt):
            return None
        self.open.pop(job, None)
        self._remember(job)
        return life or JobLife("", attempt, 0, 0.0)

    def lose(self, job: JobId, attempt: int, code: FailureCode, now: float) -> None:
        """An attempt failed; another worker may take the job over."""
        life = self.open.get(job)
        if life is not None and attempt >= life.attempt:
            life.lost, life.heard = code, now

    def cancel(self, event: JobCancelled, now: float) -> None:
        """The owner cancelled the job; its worker may still send what it cost."""
        if not event.attempts and (life := self.open.get(event.job)) is not None:
            life.lost, life.heard = FailureCode.CANCELLED, now

    def sweep(self, now: float) -> Iterator[tuple[JobLife, FailureCode]]:
        """Remove and yield jobs that no worker took over, and jobs without any event for too long."""
        for job, life in list(self.open.items()):
            patience = SILENT_S if life.lost is None else GRACE_S
            if now - life.heard > patience:
                del self.open[job]
                self._remember(job)
                yield life, life.lost or FailureCode.WORKER_LOST

    def _remember(self, job: JobId) -> None:
        self._ended[job] = None
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
