"""Stand-ins for the speculator and the drafter: the same words on the bus, a pure function for a model."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import ClassVar

from tests.sim import truth
from twd.chat.text import Detokenizer
from twd.kit.service import Effects, Reply, Service, ServiceContext
from twd.wire.base import JobId, ModelId, SessionId
from twd.wire.draft import DraftProposed, SessionClosed, SessionOpened
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    FinishReason,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    JobStats,
    JobSubmitted,
    TokensAccepted,
)
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

POISON = "poison"
KEEP_ALIVE_S = 1.0
UNLIMITED = 1_000_000
VOCAB = VocabFingerprint(hash="sim", tokens=truth.VOCABULARY)


@dataclass(eq=False)
class Work:
    """One attempt at a job in a speculator's hands."""

    job: JobSubmitted
    session: SessionId
    deadline: float
    history: list[int]
    text: Detokenizer
    drafts: dict[int, int] = field(default_factory=dict)
    ended: bool = False

    @property
    def tokens(self) -> list[int]:
        """What was made so far, by this attempt and those before it."""
        return self.history[truth.PROMPT_TOKENS :]

    @property
    def seed(self) -> int:
        """The seed that the owner chose."""
        assert self.job.sampling.seed is not None
        return self.job.sampling.seed


class FakeSpeculator(Service):
    """Takes jobs, decides tokens one by one, believes no draft that it has not checked."""

    name = "speculator"
    reads = (JobSubmitted, JobCancelled, DraftProposed)
    writes = (JobStarted, TokensAccepted, JobFinished, JobFailed, SessionOpened, SessionClosed)
    model = ModelId("m")
    slots: ClassVar[int] = 3
    queue_max: ClassVar[int] = 16
    load_s: ClassVar[tuple[float, float]] = (0.1, 1.5)
    step_s: ClassVar[float] = 0.1
    prefill_s: ClassVar[tuple[float, ...]] = (0.0, 0.05, 0.5, 3.0)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.dice = random.Random(ctx.ids.seed())
        self.works: dict[JobId, Work] = {}
        self.sessions: dict[SessionId, Work] = {}
        self.ended_attempts: dict[JobId, int] = {}
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    async def setup(self) -> None:
        await asyncio.sleep(self.dice.uniform(*self.load_s))

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        held = self.works.get(event.job)
        latest = max(held.job.attempt if held else 0, self.ended_attempts.get(event.job, 0))
        if event.attempt > latest and (refusal := self._refusal()) is not None:
            reply(JobFailed(job=event.job, attempt=event.attempt, failure=refusal))
            return None
        reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance, ahead=len(self.works)))
        if event.attempt > latest:
            if held is not None:
                self._fail(held, FailureCode.CANCELLED, "a later attempt came")
            self._take(event)
        return None

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        work = self.works.get(event.job)
        if work is None or work.job.owner != event.source:
            return None
        if event.attempts == 0 or work.job.attempt <= event.attempts:
            self._fail(work, FailureCode.CANCELLED, event.reason)
        return None

    def on_draft_proposed(self, event: DraftProposed) -> Effects:
        work = self.sessions.get(event.session)
        if work is not None:
            known = event.at <= len(work.history) and prefix_hash(work.history[: event.at]) == event.prefix
            if known:
                work.drafts.update(enumerate(event.tokens, event.at))
        return None

    async def quiesce(self) -> None:
        self.draining = True
        await self.idle.wait()

    async def teardown(self) -> None:
        for work in list(self.works.values()):
            self._fail(work, FailureCode.WORKER_LOST, "the service stops")

    def _refusal(self) -> Failure | None:
        if self.draining:
            return Failure(code=FailureCode.DRAINING, message="going away")
        if len(self.works) >= self.queue_max:
            return Failure(code=FailureCode.BUSY, message="the queue is full")
        return None

    def _take(self, job: JobSubmitted) -> None:
        assert job.prompt.text is not None
        session = self.ctx.ids.session()
        history = truth.prompt_tokens(job.prompt.text) + job.resume
        work = Work(job, session, self.clock.now() + job.deadline_ms / 1000, history, truth.stream())
        work.text.feed(job.resume)
        self.works[job.job] = self.sessions[session] = work
        self.idle.clear()
        self.tasks.start(f"work {job.job}", self._work(work))

    async def _work(self, work: Work) -> None:
        """Wait for a slot, in the order of coming; then run."""
        patience = 0
        while not work.ended and list(self.works.values()).index(work) >= self.slots:
            await asyncio.sleep(KEEP_ALIVE_S / 4)
            patience += 1
            if patience % 4 == 0 and not work.ended:
                self._tell(work, [], "")
        if not work.ended:
            await self._run(work)

    async def _run(self, work: Work) -> None:
        await self._prefill(work)
        while not work.ended:
            await asyncio.sleep(self.step_s * self.dice.uniform(0.5, 1.5))
            if not work.ended:
                self._step(work)

    async def _prefill(self, work: Work) -> None:
        job = work.job
        if job.prompt.text == POISON:
            raise ValueError(f"this prompt is {POISON}")
        count = truth.PROMPT_TOKENS
        self.emit(
            JobStarted(job=job.job, attempt=job.attempt, session=work.session, model=job.model, prompt_tokens=count)
        )
        left = self.dice.choice(self.prefill_s) * self.dice.random()
        while left > 0 and not work.ended:
            await asyncio.sleep(min(left, KEEP_ALIVE_S))
            left -= KEEP_ALIVE_S
            if left > 0 and not work.ended:
                self._tell(work, [], "")
        if not work.ended:
            self._open_session(work)

    def _open_session(self, work: Work) -> None:
        self.emit(
            SessionOpened(
                job=work.job.job,
                session=work.session,
                model=work.job.model,
                speculator=self.instance,
                node=self.ctx.node,
                tokens=list(work.history),
                vocab=VOCAB,
                seed=work.seed,
            )
        )

    def _step(self, work: Work) -> None:
        """One pass of the target: the drafts that hold, and one token more."""
        if self.clock.now() >= work.deadline:
            self._fail(work, FailureCode.DEADLINE, "too late")
            return
        room = UNLIMITED if work.job.max_tokens is None else work.job.max_tokens - len(work.tokens)
        new: list[int] = []
        ended = room <= 0
        while not ended:
            token = truth.choose(work.seed, work.history)
            ended = token == truth.END_OF_TEXT
            if ended:
                break
            drafted = work.drafts.pop(len(work.history), None)
            work.history.append(token)
            new.append(token)
            ended = len(new) >= room
            if drafted != token:
                break
        if new:
            self._tell(work, new, work.text.feed(new))
        if ended:
            self._finish(work)

    def _tell(self, work: Work, tokens: list[int], text: str) -> None:
        index = len(work.tokens) - len(tokens)
        self.emit(
            TokensAccepted(
                job=work.job.job,
                attempt=work.job.attempt,
                session=work.session,
                at=truth.PROMPT_TOKENS + index,
                index=index,
                tokens=tokens,
                text=text,
            )
        )

    def _finish(self, work: Work) -> None:
        full = work.job.max_tokens is not None and len(work.tokens) >= work.job.max_tokens
        self._end(work)
        self.emit(
            JobFinished(
                job=work.job.job,
                attempt=work.job.attempt,
                reason=FinishReason.LENGTH if full else FinishReason.STOP,
                stats=JobStats(completion_tokens=len(work.tokens), prompt_tokens=truth.PROMPT_TOKENS),
                tail=work.text.finish(),
                session=work.session,
            )
        )

    def _fail(self, work: Work, code: FailureCode, message: str) -> None:
        self._end(work)
        failure = Failure(code=code, message=message)
        self.emit(JobFailed(job=work.job.job, attempt=work.job.attempt, failure=failure, session=work.session))

    def _end(self, work: Work) -> None:
        work.ended = True
        del self.works[work.job.job], self.sessions[work.session]
        self.ended_attempts[work.job.job] = work.job.attempt
        self.emit(SessionClosed(job=work.job.job, session=work.session))
        if not self.works:
            self.idle.set()


class FakeDrafter(Service):
    """Guesses what comes next: right with a chance of `skill`, and never waits."""

    name = "drafter"
    reads = (SessionOpened, TokensAccepted, SessionClosed)
    writes = (DraftProposed,)
    skill: ClassVar[float] = 0.7
    ahead: ClassVar[int] = 4

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.dice = random.Random(ctx.ids.seed())
        self.sessions: dict[SessionId, tuple[int, list[int]]] = {}

    def on_session_opened(self, event: SessionOpened) -> Effects:
        self.sessions[event.session] = (event.seed, list(event.tokens))
        self._guess(event.session)
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        known = self.sessions.get(event.session)
        if known is not None and event.tokens:
            if event.at != len(known[1]):
                del self.sessions[event.session]  # a piece is missing: this text can no longer be followed
                return None
            known[1].extend(event.tokens)
            self._guess(event.session)
        return None

    def on_session_closed(self, event: SessionClosed) -> Effects:
        self.sessions.pop(event.session, None)
        return None

    def _guess(self, session: SessionId) -> None:
        seed, tokens = self.sessions[session]
        guessed: list[int] = []
        for _ in range(self.ahead):
            right = self.dice.random() < self.skill
            token = truth.choose(seed, tokens + guessed) if right else self.dice.randrange(truth.VOCABULARY)
            guessed.append(token)
        self.emit(
            DraftProposed(
                session=session, drafter=self.instance, at=len(tokens), prefix=prefix_hash(tokens), tokens=guessed
            )
        )
