"""Jobs in progress as a listener sees them: which attempt counts, what is new, and when a job is over."""

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
"""Time that another worker has to take over a job, before it counts as failed."""
SILENT_S: Final = 900.0
"""A job that is not heard of for so long is over, however it ended."""


@dataclass(slots=True)
class JobLife:
    """One job. Stamps are milliseconds of its workers' clocks; `heard` is our own time in seconds."""

    model: str
    attempt: int
    started_ms: int
    heard: float
    place: int = 0
    """Where the next piece belongs; pieces without tokens, as other servers send them, count one."""
    tokens: int = 0
    """Tokens that were counted."""
    resumed: int = 0
    """How many of them earlier attempts made."""
    first_ms: int = 0
    last_ms: int = 0
    lost: FailureCode | None = None


@dataclass
class JobLives:
    """All jobs that have started and not ended, and the names of some that have."""

    open: OrderedDict[JobId, JobLife] = field(default_factory=OrderedDict)
    _ended: OrderedDict[JobId, None] = field(default_factory=OrderedDict)

    def start(self, event: JobStarted, model: str, now: float) -> tuple[JobLife | None, bool]:
        """A job starts, or goes on elsewhere; None for what is known already. Second: whether it was taken over."""
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
        """The job, how many tokens are new, and the pause before them in ms, which the first has none of."""
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
        """A job is over; None where that was known, or an earlier attempt's end does not count."""
        life = self.open.get(job)
        if job in self._ended or (life is not None and attempt < life.attempt):
            return None
        self.open.pop(job, None)
        self._remember(job)
        return life or JobLife("", attempt, 0, 0.0)

    def lose(self, job: JobId, attempt: int, code: FailureCode, now: float) -> None:
        """An attempt broke off; another worker may go on."""
        life = self.open.get(job)
        if life is not None and attempt >= life.attempt:
            life.lost, life.heard = code, now

    def cancel(self, event: JobCancelled, now: float) -> None:
        """Its owner wants it no more; its worker may still tell what it cost."""
        if not event.attempts and (life := self.open.get(event.job)) is not None:
            life.lost, life.heard = FailureCode.CANCELLED, now

    def sweep(self, now: float) -> Iterator[tuple[JobLife, FailureCode]]:
        """Jobs that nobody went on with, or that were never heard of again."""
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
