"""What the owner of a job does until the job ends: a state machine without I/O.

The owner submits the job and collects its tokens by their index. When the worker is silent or a part of the text does
not arrive, the owner submits the job again, with the tokens that it has. The target's choice is a pure function, so
another worker continues with the same text. The owner always reports exactly one end.

Assumptions: `index`, `max_tokens` and `stats.completion_tokens` count from the first token of the whole text, `resume`
included. A worker without new tokens sends TokensAccepted without tokens every second. Events of an earlier attempt, or
of another session of the same attempt, are ignored. What a token adds to the text depends only on the tokens up to it,
and text that the worker held back comes with JobFinished; so another worker repeats and omits nothing.

A text without tokens counts as one index. It comes from a target that gives no tokens; no other worker can continue
such a job.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from twd.wire.base import Event, InstanceId, Position, SessionId, Token
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    JobSubmitted,
    TokensAccepted,
)

EARLY_MAX: Final = 256
UNANSWERED_S: Final = 0.2
"""A submission that nobody answered for so many seconds when a worker appears went to one that is gone or stopped."""
_HEARD: Final = (TokensAccepted, JobQueued, JobStarted, JobFinished, JobFailed)
LOSSES: Final = frozenset({FailureCode.WORKER_LOST, FailureCode.BACKEND_DOWN, FailureCode.CANCELLED})
"""Failures after which another worker continues.

CANCELLED is one of them: if the owner did not cancel the job, somebody thought that the owner was dead.
"""


@dataclass(frozen=True, slots=True)
class OwnerPolicy:
    """The time limits of an owner, in seconds, and how many workers may be lost in a row."""

    answer_s: float = 1.0
    """How long to wait for the JobQueued of one submission."""
    silence_s: float = 4.0
    """A worker without an event for this long is lost."""
    silence_after_loss_s: float = 1.5
    """The same once the bus is back after a loss: an event may have been lost with it, a job's last one for example."""
    gap_s: float = 0.5
    """How long to wait for a missing part of the text that may only be late."""
    patience_s: float = 3.0
    """How long to submit a job again that no worker has taken yet."""
    recovery_s: float = 60.0
    """How long to submit a job again that a worker had taken before."""
    losses: int = 5
    """How many workers may be lost in a row without a new token in between."""
    backoff_s: float = 0.25
    backoff_max_s: float = 2.0


class Submit(msgspec.Struct, frozen=True):
    """Send this request; pass its answer to `handle`, or the reason why none came to `unanswered`."""

    job: JobSubmitted
    timeout_s: float


class Release(msgspec.Struct, frozen=True):
    """Publish this, so that workers that still hold the job, or old attempts of it, drop it."""

    event: JobCancelled


class Deliver(msgspec.Struct, frozen=True):
    """The next piece of the text, in order and without repeats."""

    event: TokensAccepted


class Finish(msgspec.Struct, frozen=True):
    """The job ended well: the whole text has been delivered."""

    event: JobFinished


class Fail(msgspec.Struct, frozen=True):
    """The job failed; the text that was delivered stays as it is."""

    failure: Failure


OwnerAction = Submit | Release | Deliver | Finish | Fail


class JobOwner:
    """One job from its first submission to its one end. Call `begin` first, and `tick` when `due`."""

    def __init__(self, job: JobSubmitted, policy: OwnerPolicy, now: float) -> None:
        if job.sampling.seed is None:
            raise ValueError("a job needs its seed before it is submitted: another worker must go on with the same one")
        self.job = job
        self.policy = policy
        self.attempt = job.attempt
        self.tokens: list[Token] = list(job.resume)
        self.place = len(self.tokens)
        """The index of the next expected token."""
        self.worker = InstanceId("")
        self.ended = False
        self.started: JobStarted | None = None
        """The last JobStarted: prompt length, seed, fingerprint."""
        self.taken_over = 0
        """How often another worker took the job over."""
        self._deadline = now + job.deadline_ms / 1000
        self._session = SessionId("")
        self._held_by = 0
        """The number of the last attempt that a worker took; 0: none yet."""
        self._alive = False
        self._heard = now
        self._trouble_since: float | None = None
        self._losses = 0
        self._tries = 0
        self._retry_at: float | None = None
        self._hole_since: float | None = None
        self._early: dict[Position, TokensAccepted] = {}
        self._finished: JobFinished | None = None
        self._untokened = False
        self._unvouched: list[Event] = []
        """Events that came before the owner knew which worker has the job."""

    # -- what happens --------------------------------------------------------------------------

    def begin(self, now: float) -> list[OwnerAction]:
        """The first submission."""
        return self._submit(now)

    def answer(self, event: Event, now: float) -> list[OwnerAction]:
        """Handle a reply to Submit, which only the worker that took the job can send; JobQueued names that worker."""
        if self.ended or not self._is_current(event):
            return []
        actions = self._take(event, now)
        if not isinstance(event, JobQueued):
            return actions
        self.worker, early = event.speculator, self._unvouched
        self._unvouched = []
        for one in early:
            actions += self.handle(one, now)
        return actions

    def handle(self, event: Event, now: float) -> list[OwnerAction]:
        """Handle an event from the bus; ignored if it is of another job or attempt, or not from its worker."""
        if isinstance(event, JobQueued):  # only ever a reply
            return self.answer(event, now)
        if self.ended or not self._is_current(event):
            return []
        if event.source and not self.worker:  # the event came before the JobQueued that names the worker
            self._unvouched = [*self._unvouched, event][-EARLY_MAX:]
            return []
        if event.source and event.source != self.worker:
            return []
        return self._take(event, now)

    def _take(self, event: Event, now: float) -> list[OwnerAction]:
        self._heard, self._alive = now, True
        if not isinstance(event, JobFailed):
            self._took()
        match event:
            case JobQueued():
                return []
            case JobStarted():
                self._session, self.started = event.session, event
                return []
            case TokensAccepted():
                return self._collect(event, now)
            case JobFinished():
                self._finished = event
                return self._catch_up(now)
            case JobFailed():
                return self._failed(event.failure, now)
            case _:
                return []

    def _took(self) -> None:
        self.taken_over += 0 < self._held_by < self.attempt
        self._held_by, self._trouble_since = self.attempt, None

    def unanswered(self, attempt: int, failure: Failure, now: float) -> list[OwnerAction]:
        """Handle a Submit without an answer: no worker, the bus away, too late, or a request that is not valid."""
        if self.ended or attempt != self.attempt or self._alive or self._retry_at is not None:
            return []
        if failure.retry or failure.code is FailureCode.DEADLINE:  # of this one submission, not of the job
            return self._refused(failure, now)
        return self._fail(failure.code, failure.message, release=True, field=failure.field)

    def worker_gone(self, instance: InstanceId, now: float) -> list[OwnerAction]:
        """Note that a service ended; if it was this job's worker, the job is submitted again."""
        if self.ended or self._retry_at is not None or not instance or instance != self.worker:
            return []
        return self._lost("its worker is gone", now)

    def somebody_home(self, now: float) -> list[OwnerAction]:
        """A worker for this job's model has appeared: submit now if the job waits for its next try or an answer."""
        if self.ended:
            return []
        if self._retry_at is not None:
            self._retry_at = min(self._retry_at, now)
            return self.tick(now)
        if self._alive or now - self._heard < UNANSWERED_S:
            return []
        self._retry_at = now
        return [self._release_attempts(), *self._submit(now)]

    def bus_back(self, now: float) -> list[OwnerAction]:
        """The bus is back after a loss: a worker that has the job says so within its usual second, or is lost."""
        if not self.ended and self._retry_at is None:
            self._heard = min(self._heard, now - self.policy.silence_s + self.policy.silence_after_loss_s)
        return []

    def cancel(self, reason: str, now: float) -> list[OwnerAction]:
        """Cancel the job for the client. This is its end; later events are ignored."""
        return self._fail(FailureCode.CANCELLED, reason, release=True)

    # -- time ----------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """The time at which `tick` must be called if no event comes before."""
        if self.ended:
            return float("inf")
        if self._retry_at is not None:
            return min(self._retry_at, self._deadline)
        due = min(self._deadline, self._heard + self.policy.silence_s)
        return due if self._hole_since is None else min(due, self._hole_since + self.policy.gap_s)

    def tick(self, now: float) -> list[OwnerAction]:
        """Check the deadline, the time of the next try, a missing part of the text, and a silent worker."""
        if self.ended or now < self.due:
            return []
        if now >= self._deadline:
            text = f"the job is not done after {self.job.deadline_ms / 1000:g} s; {self.place} tokens came"
            return self._fail(FailureCode.DEADLINE, text, release=True)
        if self._retry_at is not None:
            return self._submit(now)
        if self._hole_since is not None and now >= self._hole_since + self.policy.gap_s:
            return self._lost("a part of the text never came", now)
        return self._lost(f"its worker said nothing for {self.policy.silence_s:g} s", now)

    # -- the text ------------------------------------------------------------------------------

    def _is_current(self, event: Event) -> bool:
        if not isinstance(event, _HEARD):
            return False
        if event.job != self.job.job or event.attempt != self.attempt or self._retry_at is not None:
            return False
        session = SessionId("") if isinstance(event, JobQueued) else event.session
        return not session or not self._session or session == self._session

    def _collect(self, event: TokensAccepted, now: float) -> list[OwnerAction]:
        self._session = event.session or self._session
        if _length(event) == 0 or event.index + _length(event) <= self.place:
            return []
        if event.index < self.place:
            return self._lost("its worker sent pieces that overlap", now)
        self._early.setdefault(event.index, event)
        return self._catch_up(now)

    def _catch_up(self, now: float) -> list[OwnerAction]:
        """Deliver all tokens that follow without a gap; finish if the end is known and no token is missing."""
        actions: list[OwnerAction] = []
        while (piece := self._early.pop(self.place, None)) is not None:
            self._untokened = self._untokened or not piece.tokens
            self.tokens += piece.tokens
            self.place += _length(piece)
            self._losses, self._tries, self._hole_since = 0, 0, None
            actions.append(Deliver(piece))
        if self._finished is not None and not self._early and self._is_whole(self._finished):
            return actions + self._finish(self._finished)
        if len(self._early) > EARLY_MAX:
            return actions + self._lost("a part of the text never came", now)
        if self._hole_since is None and (self._early or self._finished is not None):
            self._hole_since = now
        return actions

    def _is_whole(self, end: JobFinished) -> bool:
        return self._untokened or self.place >= end.stats.completion_tokens

    # -- trouble -------------------------------------------------------------------------------

    def _failed(self, failure: Failure, now: float) -> list[OwnerAction]:
        if failure.code in LOSSES:
            return self._lost(failure.message, now, failure.code)
        if failure.retry:
            return self._refused(failure, now)
        return self._fail(failure.code, failure.message, field=failure.field)

    def _refused(self, failure: Failure, now: float) -> list[OwnerAction]:
        """No worker takes the job now: submit it again until the patience is over, then fail."""
        patience = self.policy.recovery_s if self._held_by else self.policy.patience_s
        if self._trouble_since is not None and now - self._trouble_since >= patience:
            return self._fail(failure.code, failure.message, release=True, field=failure.field)
        return self._retry(now)

    def _lost(self, why: str, now: float, code: FailureCode = FailureCode.WORKER_LOST) -> list[OwnerAction]:
        """The worker of this job is lost: another worker continues from the tokens that are here."""
        self._losses += 1
        if self._untokened:
            text = f"{why}; this target gives no tokens, so no other worker can go on with the same text"
            return self._fail(code, text, release=True)
        if self._losses > self.policy.losses:
            text = f"{why}; {self._losses} workers in a row were lost without a new token"
            return self._fail(code, text, release=True)
        return self._retry(now)

    def _retry(self, now: float) -> list[OwnerAction]:
        self._trouble_since = now if self._trouble_since is None else self._trouble_since
        self._early.clear()
        self._finished = self._hole_since = None
        release = self._release_attempts()
        self._retry_at = now + self._backoff()
        self._tries += 1
        if self._retry_at > now:
            return [release]
        return [release, *self._submit(now)]

    def _release_attempts(self) -> Release:
        return Release(JobCancelled(job=self.job.job, attempts=self.attempt, reason="another worker goes on"))

    def _backoff(self) -> float:
        """Return the seconds before the next try: 0 after the first loss of a job that ran, then more each time."""
        if self._tries == 0 and self._losses:
            return 0.0
        return min(self.policy.backoff_s * 2.0 ** min(self._tries, 16), self.policy.backoff_max_s)

    def _submit(self, now: float) -> list[OwnerAction]:
        if self._retry_at is not None:
            self.attempt += 1
        self._retry_at, self._alive, self._heard = None, False, now
        self.worker, self._session, self._unvouched = InstanceId(""), SessionId(""), []
        left_ms = max(1, round((self._deadline - now) * 1000))
        job = msgspec.structs.replace(self.job, attempt=self.attempt, resume=list(self.tokens), deadline_ms=left_ms)
        return [Submit(job, min(self.policy.answer_s, left_ms / 1000))]

    # -- the end -------------------------------------------------------------------------------

    def _finish(self, end: JobFinished) -> list[OwnerAction]:
        self.ended = True
        if not end.tail:
            return [Finish(end)]
        at = self.place + (self.started.prompt_tokens if self.started is not None else 0)
        tail = TokensAccepted(
            job=end.job, attempt=end.attempt, session=end.session, at=at, index=self.place, tokens=[], text=end.tail
        )
        return [Deliver(tail), Finish(end)]

    def _fail(self, code: FailureCode, message: str, *, release: bool = False, field: str = "") -> list[OwnerAction]:
        if self.ended:
            return []
        self.ended = True
        fail = Fail(Failure(code=code, message=message[:4096], field=field))
        return [Release(JobCancelled(job=self.job.job, reason=code.value)), fail] if release else [fail]


def _length(event: TokensAccepted) -> int:
    return len(event.tokens) or int(event.text != "")
