"""A scripted speculator for the edge's tests: the real one's events, without an engine."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from twd.kit.service import Effects, Reply, Service, ServiceContext
from twd.wire.base import JobId, ModelId, SessionId
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import (
    DrafterShare,
    FinishReason,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    JobStats,
    JobSubmitted,
    Thoughts,
    TokenLogprob,
    TokensAccepted,
    TopToken,
)
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.model import ModelFacts, ModelReady, VocabFingerprint
from twd.wire.routes import ROUTE_OF
from twd.wire.service import MessageRejected

MODEL = ModelId("small")
WORDS = ["Hel", "lo", ", ", "wör", "ld", " 👋", "!"]

FACTS = ModelFacts(
    model=MODEL,
    file="small.gguf",
    architecture="llama",
    quantization="Q4_0",
    parameters=135_000_000,
    size_bytes=90_000_000,
    ctx_size=8192,
    parallel=16,
    vocab=VocabFingerprint(hash="v", tokens=49152),
)


@dataclass
class Script:
    """What the next jobs do."""

    words: list[str] = field(default_factory=lambda: list(WORDS))
    refuse: Failure | None = None
    unreadable: str = ""
    fail_after: int | None = None
    failure: Failure = field(default_factory=lambda: Failure(code=FailureCode.OUT_OF_MEMORY, message="no memory left"))
    hang_after: int | None = None
    reason: FinishReason = FinishReason.STOP
    per_event: int = 2
    pause_s: float = 0.0
    prompt_tokens: int = 11
    cached_tokens: int = 4
    stop: str = ""
    tail: str = ""
    counts_at_once: bool = True
    """A relay counts a prompt only when its job ends."""
    tool_format: str = "bare"
    thoughts: Thoughts | None = None
    choose: Callable[[JobSubmitted], list[str]] | None = None


class FakeSpeculator(Service):
    """Answers every job with the script's words, one token a word."""

    name = "speculator"
    reads = (JobSubmitted, JobCancelled)
    writes = (JobStarted, TokensAccepted, JobFinished, JobFailed, ModelReady)

    def __init__(self, ctx: ServiceContext, script: Script | None = None, model: ModelId = MODEL) -> None:
        super().__init__(ctx)
        self.script = script or Script()
        self.model = model
        self.jobs: list[JobSubmitted] = []
        self.cancelled: dict[JobId, JobCancelled] = {}
        self.cancel_heard = asyncio.Event()
        self.silent = False
        self.release = asyncio.Event()

    def pattern(self, event_type: type) -> str:
        route = ROUTE_OF[event_type]
        return route.pattern_for(model=self.model) if event_type is JobSubmitted else route.pattern

    async def start(self) -> None:
        await super().start()
        self.emit(ModelReady(node=self.ctx.node, facts=replace(FACTS, tool_format=self.script.tool_format)))

    def facts(self) -> SpeculatorFacts:
        return SpeculatorFacts(
            model=self.model, ctx_size=FACTS.ctx_size, exact=True, tool_format=self.script.tool_format
        )

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        self.cancelled[event.job] = event
        self.cancel_heard.set()
        return None

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        self.jobs.append(event)
        if self.silent:
            return None
        if self.script.unreadable:
            reply(MessageRejected(subject="x", reason=self.script.unreadable))
            return None
        if self.script.refuse is not None:
            reply(JobFailed(job=event.job, attempt=event.attempt, failure=self.script.refuse))
            return None
        reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance))
        self.tasks.start("play", self._play(event, self.script))
        return None

    async def _play(self, job: JobSubmitted, script: Script) -> None:
        words = script.choose(job) if script.choose else script.words
        words = words[: job.max_tokens] if job.max_tokens else words
        session = SessionId(f"s-{job.job}-{job.attempt}")
        self.emit(self._began(job, session, script))
        for at in range(len(job.resume), len(words), script.per_event):
            if script.hang_after is not None and at >= script.hang_after:
                await self.release.wait()
            if script.fail_after is not None and at >= script.fail_after:
                self.emit(JobFailed(job=job.job, attempt=job.attempt, failure=script.failure, session=session))
                return
            self._accept(job, session, at, words[at : at + script.per_event])
            await asyncio.sleep(script.pause_s)
        self.emit(self._finished(job, session, len(words), script))

    def _began(self, job: JobSubmitted, session: SessionId, script: Script) -> JobStarted:
        return JobStarted(
            job=job.job,
            attempt=job.attempt,
            session=session,
            model=job.model,
            prompt_tokens=script.prompt_tokens if script.counts_at_once else 0,
            cached_tokens=script.cached_tokens if script.counts_at_once else 0,
            seed=job.sampling.seed or 0,
            fingerprint="fp_test",
            thoughts=script.thoughts,
        )

    def _accept(self, job: JobSubmitted, session: SessionId, at: int, words: list[str]) -> None:
        self.emit(
            TokensAccepted(
                job=job.job,
                attempt=job.attempt,
                session=session,
                at=self.script.prompt_tokens + at,
                index=at,
                tokens=list(range(at, at + len(words))),
                text="".join(words),
                checked=4,
                taken=len(words) - 1,
                drafter="ngram",
                logprobs=[self._logprob(word, job.logprobs) for word in words] if job.logprobs is not None else [],
                lengths=[len(word) for word in words] if self.script.thoughts is not None else [],
            )
        )

    def _logprob(self, word: str, tops: int) -> TokenLogprob:
        top = [TopToken(token=i, text=f"{word}{i}", logprob=-0.5 - i) for i in range(tops)]
        return TokenLogprob(token=1, text=word, logprob=-0.5, bytes=list(word.encode()), top=top)

    def _finished(self, job: JobSubmitted, session: SessionId, tokens: int, script: Script) -> JobFinished:
        cut = job.max_tokens is not None and tokens == job.max_tokens and tokens < len(script.words)
        return JobFinished(
            job=job.job,
            attempt=job.attempt,
            reason=FinishReason.LENGTH if cut else script.reason,
            seed=job.sampling.seed or 0,
            tail=script.tail,
            stop=script.stop,
            session=session,
            stats=JobStats(
                prompt_tokens=script.prompt_tokens,
                cached_tokens=script.cached_tokens,
                completion_tokens=tokens,
                passes=(tokens + 1) // 2,
                checked=8,
                taken=4,
                predicted=len(job.speculation.prediction.split()),
                foretold=sum(word.strip() in job.speculation.prediction.split() for word in script.words),
                drafters=[DrafterShare(drafter="ngram", checked=8, taken=4)],
                decode_ms=10.0,
            ),
        )
