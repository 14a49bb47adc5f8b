"""Sends jobs to members, judges and targets of a running system, one at a time, for a calibration."""

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

from twd.bus.base import BusError
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Service, ServiceContext
from twd.wire.base import Event, JobId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import (
    JobCancelled,
    JobFailed,
    JobFinished,
    JobStats,
    JobSubmitted,
    Judge,
    Prompt,
    Sampling,
    Speculation,
    TokensAccepted,
)
from twd.wire.service import ServiceLease, read_lease

TIMEOUT_S = 300.0


@dataclass(slots=True)
class Told:
    """The result of a job."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    finished: JobFinished | None = None

    @property
    def stats(self) -> JobStats:
        """The statistics of the job."""
        return self.finished.stats if self.finished is not None else JobStats()

    @property
    def ms(self) -> float:
        """Milliseconds that the worker spent on it."""
        return self.stats.prefill_ms + self.stats.decode_ms


class Asker(Service):
    """Submits jobs one by one, and collects what comes."""

    name = "calibration"
    reads: ClassVar[tuple[type[Event], ...]] = (TokensAccepted, JobFinished, JobFailed)
    writes = (JobSubmitted, JobCancelled)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self._open: dict[JobId, tuple[Told, asyncio.Future[Told]]] = {}

    async def leases(self) -> list[ServiceLease]:
        """The leases of all services."""
        registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        found = [read_lease(entry.value, entry.key) for entry in await registry.entries()]
        return [lease for lease in found if lease is not None]

    async def run(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        max_tokens: int,
        judge: Judge | None = None,
        speculation: Speculation | None = None,
    ) -> Told:
        """Run one job to its end and return its result; raises TwdError if it fails."""
        job = JobSubmitted(
            job=self.ctx.ids.job(),
            model=ModelId(model),
            owner=self.instance,
            prompt=prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            at_most=True,
            judge=judge,
            whole=True,
            speculation=speculation or Speculation(recall=False),
            created_ms=self.clock.wall_ms(),
            deadline_ms=int(TIMEOUT_S * 1000),
        )
        done: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._open[job.job] = (Told(), done)
        try:
            await self._submit(job)
            return await asyncio.wait_for(done, TIMEOUT_S)
        except TimeoutError:
            self.emit(JobCancelled(job=job.job, reason="nobody waits any longer"))
            raise TwdError(FailureCode.DEADLINE, f"{model} gave no whole answer within {TIMEOUT_S:g} s") from None
        finally:
            self._open.pop(job.job, None)

    async def _submit(self, job: JobSubmitted) -> None:
        try:
            reply = await self.ask(job)
        except BusError as error:
            raise TwdError(FailureCode.NOBODY_HOME, f"nobody serves {job.model}: {error}") from None
        if isinstance(reply, JobFailed):
            raise TwdError(reply.failure.code, reply.failure.message)

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """Add the next piece of text."""
        held = self._open.get(event.job)
        if held is not None:
            held[0].text += event.text
            held[0].tokens += event.tokens
            held[0].gaps += [score.gap for score in event.scores]
        return None

    def on_job_finished(self, event: JobFinished) -> Effects:
        """The answer is complete."""
        held = self._open.get(event.job)
        if held is not None and not held[1].done():
            told, done = held
            told.text, told.finished = told.text + event.tail, event
            told.gaps += [event.end_score.gap] if event.end_score is not None else []
            done.set_result(told)
        return None

    def on_job_failed(self, event: JobFailed) -> Effects:
        """The job failed, so there is no answer."""
        held = self._open.get(event.job)
        if held is not None and not held[1].done():
            held[1].set_exception(TwdError(event.failure.code, event.failure.message))
        return None
