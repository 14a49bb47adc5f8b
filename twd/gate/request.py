"""One running request of the gate: does the actions of its decisions and sends events to its client."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from twd.gate.actions import Action, Ask, AskJudge, BeginAnswer, Break, End, FoundAnswer, Say, ScoreAnswer, Stop, Write
from twd.gate.cache import Cache, Scored
from twd.gate.calibration.parts import MEMBER, Parts
from twd.gate.core import GateJob
from twd.gate.prompt_judge import question
from twd.kit.jobs.owner import OwnerPolicy
from twd.wire.base import Event, InstanceId, JobId, ModelId, SessionId
from twd.wire.failures import Failure
from twd.wire.job import (
    JobFailed,
    JobFinished,
    JobStarted,
    JobSubmitted,
    Speculation,
    TokensAccepted,
)

KEEPALIVE_S = 1.0


class House(Protocol):
    """What a request needs from the gate."""

    parts: Parts
    instance: InstanceId
    instruction: str
    cache: Cache

    def score_key(self, job: JobSubmitted, target: ModelId) -> bytes:
        """The cache key of a verdict; empty if verdicts are not cached."""

    def emit_for(self, event: Event) -> None:
        """Publish an event."""

    def now(self) -> float:
        """The clock's time, in seconds."""

    def found(self, request: "GateRequest", found: FoundAnswer) -> None:
        """A verdict on a member's answer."""

    def over(self, request: "GateRequest", finished: JobFinished | None) -> None:
        """The request has ended."""

    def wrote(self, request: "GateRequest", name: str, seconds: float) -> None:
        """A member took this many seconds to write an answer."""

    def grammars(self, model: ModelId) -> bool:
        """Whether a model obeys a grammar."""

    def patience(self, target: ModelId) -> OwnerPolicy:
        """How long jobs of a target wait for somebody who takes them."""


@dataclass
class GateRequest:
    """A client's job, its decisions, and its parts by their numbers."""

    job: JobSubmitted
    core: GateJob
    target: ModelId
    session: SessionId
    house: House
    began: float
    first_at: float = -1.0
    spoke_at: float = 0.0
    jobs: dict[int, JobId] = field(default_factory=dict)
    members: dict[int, tuple[str, float]] = field(default_factory=dict)
    """By part number: the member that was asked, and when."""
    scoring: dict[int, tuple[bytes, list[TokensAccepted]]] = field(default_factory=dict)
    """By part number: the cache key and the scores that came so far."""
    prompt_tokens: int = 0
    index: int = 0
    text: list[str] = field(default_factory=list)
    """The text that was sent to the client, in pieces."""

    def run(self, step: Callable[[float], list[Action]]) -> None:
        """Take one step of the decisions and do the actions that it returns."""
        for action in step(self.house.now()):
            self._do(action)

    # -- events of the parts ------------------------------------------------------------------

    def started(self, number: int, event: JobStarted) -> None:
        """A part has started."""
        self.run(lambda now: self.core.started(number, event))

    def text_of(self, number: int, event: TokensAccepted) -> None:
        """A part sent text."""
        if number in self.scoring:
            self.scoring[number][1].append(event)
        self.run(lambda now: self.core.text(number, event, now))

    def finished(self, number: int, event: JobFinished) -> None:
        """A part has finished."""
        self.jobs.pop(number, None)
        self._keep_scores(number, event)
        if number in self.members:
            member, asked_at = self.members[number]
            self.house.wrote(self, member, self.house.now() - asked_at)
        self.run(lambda now: self.core.finished(number, event, now))

    def failed(self, number: int, failure: Failure) -> None:
        """A part has failed."""
        self.jobs.pop(number, None)
        self.run(lambda now: self.core.failed(number, failure, now))

    # -- actions of the decisions --------------------------------------------------------------

    def _do(self, action: Action) -> None:
        match action:
            case Ask(number, member):
                self.members[number] = (member, self.house.now())
                self._open(number, ModelId(member), self._plain(), MEMBER)
            case ScoreAnswer(number, judge, resume):
                job = replace(self._plain(), judge=judge, resume=resume, speculation=Speculation(enabled=False))
                self._score(number, job)
            case AskJudge(number, answer):
                grammar = self.house.grammars(self.target)
                self._open_at_target(number, question(self.job, answer, self.house.instruction, grammar=grammar))
            case Write(number, resume, prediction):
                speculation = replace(self.job.speculation, prediction=prediction or self.job.speculation.prediction)
                self._open_at_target(number, replace(self.job, resume=resume, speculation=speculation))
            case Stop(number):
                self._stop(number)
            case BeginAnswer(started):
                self._begin(started)
            case Say():
                self._say(action)
            case FoundAnswer():
                self.house.found(self, action)
            case End(finished, judged):
                self._end(replace(finished, judged=judged))
            case Break(failure):
                self._break(failure)

    def _score(self, number: int, job: JobSubmitted) -> None:
        """Have the target score a text; use the cached scores if the same text was scored before."""
        key = self.house.score_key(job, self.target)
        known = self.house.cache.find(key) if job.judge is not None and job.judge.text else None
        if known is None:
            self.scoring[number] = (key, [])
            self._open_at_target(number, job)
            return
        for piece in known.pieces:
            self.text_of(number, piece)
        self.finished(number, known.finished)

    def _keep_scores(self, number: int, finished: JobFinished) -> None:
        key, pieces = self.scoring.pop(number, (b"", []))
        if key and pieces:
            self.house.cache.keep(key, Scored(tuple(pieces), finished))

    def _stop(self, number: int) -> None:
        job = self.jobs.pop(number, None)
        if job is None:
            return
        self.house.parts.stop(job, "another answer was taken")
        if number in self.members:  # a stopped part sends no statistics, so its time is measured here
            self.core.spent.member_ms += (self.house.now() - self.members[number][1]) * 1000

    def _plain(self) -> JobSubmitted:
        """The client's job without what only the target needs: earlier tokens and logprobs."""
        return replace(self.job, resume=[], logprobs=None, at_most=True, whole=not self.core.terms.hold)

    def _open_at_target(self, number: int, job: JobSubmitted) -> None:
        self._open(number, self.target, job, self.house.patience(self.target))

    def _open(self, number: int, model: ModelId, job: JobSubmitted, policy: OwnerPolicy) -> None:
        name = JobId(f"{self.job.job}-{self.job.attempt}-{number}")
        self.jobs[number] = name
        left_ms = max(1, int(self.job.deadline_ms - (self.house.now() - self.began) * 1000))
        part = replace(job, job=name, model=model, owner=self.house.instance, attempt=1, deadline_ms=left_ms)
        self.house.parts.open(number, part, _Reader(self), policy)

    # -- events for the client ------------------------------------------------------------------

    def _begin(self, told: JobStarted) -> None:
        self.prompt_tokens = told.prompt_tokens
        self._tell(
            replace(told, job=self.job.job, attempt=self.job.attempt, session=self.session, model=self.job.model)
        )

    def _say(self, say: Say) -> None:
        if self.first_at < 0:
            self.first_at = self.house.now()
        self.text.append(say.text)
        self._tell(self._piece(say.tokens, say.text, say.lengths, say.author))
        self.index += len(say.tokens) or 1

    def _piece(self, tokens: list[int], text: str, lengths: list[int], author: str) -> TokensAccepted:
        count = len(tokens) if author else 0
        return TokensAccepted(
            job=self.job.job,
            attempt=self.job.attempt,
            session=self.session,
            at=self.prompt_tokens + self.index,
            index=self.index,
            tokens=tokens,
            text=text,
            lengths=lengths if len(lengths) == len(tokens) and sum(lengths) == len(text) else [],
            checked=count,
            taken=count,
            drafter=author,
        )

    def keep_alive(self, now: float) -> None:
        """Send an empty event if nothing was sent for KEEPALIVE_S seconds."""
        if not self.core.ended and now - self.spoke_at >= KEEPALIVE_S:
            self._tell(self._piece([], "", [], ""))

    def _end(self, finished: JobFinished) -> None:
        now = self.house.now()
        stats = self.core.stats((now - max(self.first_at, self.began)) * 1000)
        if finished.stats.completion_tokens and not self.core.tokens_told:
            stats = replace(stats, completion_tokens=finished.stats.completion_tokens)
        seed = self.job.sampling.seed or 0
        end = replace(
            finished,
            job=self.job.job,
            attempt=self.job.attempt,
            session=self.session,
            stats=stats,
            seed=seed,
            end_score=None,
        )
        self._tell(end)
        self.house.over(self, end)

    def _break(self, failure: Failure) -> None:
        stats = self.core.stats((self.house.now() - max(self.first_at, self.began)) * 1000)
        job, attempt = self.job.job, self.job.attempt
        self._tell(JobFailed(job=job, attempt=attempt, failure=failure, stats=stats, session=self.session))
        self.house.over(self, None)

    def _tell(self, event: Event) -> None:
        self.spoke_at = self.house.now()
        self.house.emit_for(event)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Passes the events of parts on to the request."""

    request: GateRequest

    def started(self, number: int, event: JobStarted) -> None:
        self.request.started(number, event)

    def text(self, number: int, event: TokensAccepted) -> None:
        self.request.text_of(number, event)

    def finished(self, number: int, event: JobFinished) -> None:
        self.request.finished(number, event)

    def failed(self, number: int, failure: Failure) -> None:
        self.request.failed(number, failure)
