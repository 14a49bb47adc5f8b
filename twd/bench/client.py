"""Submits jobs to a running system over the bus, with and without drafts, and records when tokens arrive."""

import asyncio
from dataclasses import dataclass, field

from msgspec.structs import replace

from twd.bench.prompts import BenchPrompt
from twd.kit.service import Effects, Service, ServiceContext
from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.codec import Rejected
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import (
    Grammar,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStats,
    JobSubmitted,
    Prompt,
    Sampling,
    Speculation,
    TokensAccepted,
)


@dataclass(slots=True)
class MeasuredAnswer:
    """One answer and the arrival times of its parts, in seconds after the request."""

    kind: str
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    stats: JobStats = field(default_factory=JobStats)

    @property
    def rate(self) -> float:
        """Tokens per second after the first one."""
        return 1000.0 * max(0, len(self.tokens) - 1) / self.stats.decode_ms if self.stats.decode_ms else 0.0

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.arrivals[0] if self.arrivals else 0.0

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between the parts."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """The options of a request: drafts, length, sampling."""

    speculation: Speculation
    max_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = True
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    logprobs: int | None = None
    timeout_s: float = 300.0
    recall: bool = False
    """Whether drafts may come from earlier answers, which are the same texts."""


class BenchClient(Service):
    """Submits jobs one by one or in parallel, and collects their events."""

    name = "bench"
    reads = (TokensAccepted, JobFinished, JobFailed)
    writes = (JobSubmitted, JobCancelled)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self._open: dict[JobId, tuple[MeasuredAnswer, float, asyncio.Future[MeasuredAnswer]]] = {}

    async def answer(self, model: ModelId, prompt: BenchPrompt, how: BenchRequest) -> MeasuredAnswer:
        """Return one whole answer; raises TwdError when the job fails."""
        job = self.ctx.ids.job()
        answer = MeasuredAnswer(prompt.kind)
        done: asyncio.Future[MeasuredAnswer] = asyncio.get_running_loop().create_future()
        self._open[job] = (answer, self.clock.now(), done)
        try:
            await self._submit(job, model, prompt, how)
            return await asyncio.wait_for(done, how.timeout_s)
        except asyncio.CancelledError:
            self.emit(JobCancelled(job=job, reason="nobody waits for it"))
            raise
        except TimeoutError:
            self.emit(JobCancelled(job=job, reason="bench timeout"))
            raise TwdError(FailureCode.DEADLINE, f"no whole answer within {how.timeout_s:g} s") from None
        finally:
            self._open.pop(job, None)

    async def _submit(self, job: JobId, model: ModelId, prompt: BenchPrompt, how: BenchRequest) -> None:
        reply = await self.ask(self._job(job, model, prompt, how))
        if isinstance(reply, JobFailed):
            raise TwdError(reply.failure.code, reply.failure.message)
        if isinstance(reply, Rejected) or not isinstance(reply, JobQueued):
            raise TwdError(FailureCode.INTERNAL, f"a job was answered with {reply}")

    def _job(self, job: JobId, model: ModelId, prompt: BenchPrompt, how: BenchRequest) -> JobSubmitted:
        return JobSubmitted(
            job=job,
            model=model,
            owner=InstanceId(self.instance),
            prompt=Prompt(messages=list(prompt.messages)),
            grammar=how.grammar or prompt.grammar,
            stop=list(how.stop),
            logprobs=how.logprobs,
            sampling=how.sampling,
            max_tokens=how.max_tokens,
            ignore_eos=how.ignore_eos and prompt.grammar is None and how.grammar is None,
            speculation=replace(how.speculation, recall=how.recall),
            created_ms=self.clock.wall_ms(),
            deadline_ms=int(how.timeout_s * 1000),
        )

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Record the tokens and their arrival time."""
        held = self._open.get(event.job)
        if held is not None and event.tokens:
            answer, began, _ = held
            answer.tokens += event.tokens
            answer.text += event.text
            answer.arrivals.append(self.clock.now() - began)
        return None

    def on_job_finished(self, event: JobFinished) -> Effects:
        """Complete the answer."""
        held = self._open.get(event.job)
        if held is not None and not held[2].done():
            held[0].stats, held[0].text = event.stats, held[0].text + event.tail
            held[2].set_result(held[0])
        return None

    def on_job_failed(self, event: JobFailed) -> Effects:
        """Fail the answer."""
        held = self._open.get(event.job)
        if held is not None and not held[2].done():
            held[2].set_exception(TwdError(event.failure.code, event.failure.message))
        return None
