"""Serves a configured backend as a model: sends jobs to it and publishes its text piece by piece."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from twd.backends.clients.base import Backend, Capabilities, TextPiece, wish_of
from twd.backends.clients.circuit_breaker import BreakerPermit, BreakerState, CircuitBreaker
from twd.backends.clients.facts import passed_through, relayed_facts
from twd.backends.relay.core import KEEPALIVE_S, RelayedJob, pauses
from twd.kit.service import Effects, Reply, Service, ServiceContext
from twd.wire.base import Event, JobId, ModelId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import (
    FinishReason,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    JobSubmitted,
    TokensAccepted,
)
from twd.wire.leases.workers import RelayFacts
from twd.wire.model import ModelFailed, ModelReady, ModelUnloaded
from twd.wire.routes import ROUTE_OF
from twd.wire.service import Health

JOBS_MAX: Final = 256
PROBE_S: Final = 2.0
LOOK_AGAIN_S: Final = 30.0
RETRIES: Final = 2
GATHER_S: Final = 0.01
"""If the client reads only the whole answer, pieces of text are collected for this many seconds before they are
published.
"""

Open = Callable[[], Awaitable[Backend]]
"""Finds out what the server is; may raise while the server cannot be reached."""

_SERVERS_FAULT: Final = {FailureCode.BACKEND_DOWN, FailureCode.BACKEND_BROKEN, FailureCode.DEADLINE}


@dataclass
class _Line:
    """A running job, the task that reads its text, and its permit from the circuit breaker."""

    relayed: RelayedJob
    task: asyncio.Task[None]
    call: BreakerPermit


class RelayService(Service):
    """Serves one model by pass-through. It cannot check guesses, and says so."""

    name = "relay"
    reads = (JobSubmitted, JobCancelled)
    writes = (JobQueued, JobStarted, TokensAccepted, JobFinished, JobFailed, ModelReady, ModelFailed, ModelUnloaded)
    tick_s = KEEPALIVE_S / 2

    def __init__(
        self, ctx: ServiceContext, model: ModelId, open_backend: Open, *, failures: int = 3, cooldown_s: float = 30.0
    ) -> None:
        super().__init__(ctx)
        self.model = model
        self._open = open_backend
        self._backend: Backend | None = None
        self._can: Capabilities | None = None
        self._lines: dict[JobId, _Line] = {}
        self._breaker = CircuitBreaker(failures, cooldown_s)
        self._cooldown_s = cooldown_s
        self._told: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self.note = "asking the backend what it can"

    def pattern(self, event_type: type[Event]) -> str:
        """Only the jobs of this model."""
        if event_type is JobSubmitted:
            return ROUTE_OF[JobSubmitted].pattern_for(model=self.model)
        return super().pattern(event_type)

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start at once, and keep checking whether the server answers."""
        await super().start()
        if self.ended.is_set():
            return
        self.health = Health.STARTING
        self.tasks.start("look", self._look())

    async def _look(self) -> None:
        """Probe until the server answers; then every LOOK_AGAIN_S seconds, and when the breaker allows a try."""
        while True:
            ready = await self._probe()
            await asyncio.sleep(LOOK_AGAIN_S if ready else min(PROBE_S, self._cooldown_s))

    async def _probe(self) -> bool:
        now = self.clock.now()
        if self._can is not None and self._breaker.state(now) is BreakerState.CLOSED and self._lines:
            return True  # the running jobs show the state of the server better than a probe
        call = self._breaker.enter(now) if self._can is not None else None
        if self._can is not None and call is None:
            return False
        try:
            if self._backend is None:
                self._backend = await self._open()
            can = await self._backend.probe()
        except TwdError as error:
            self._probe_failed(error, call)
            return False
        self._breaker.succeeded()
        await self._here(self._backend, can)
        return True

    def _probe_failed(self, error: TwdError, call: BreakerPermit | None) -> None:
        if call is not None:
            self._breaker.failed(self.clock.now(), str(error), call)
        self._away(error.failure)

    async def _here(self, backend: Backend, can: Capabilities) -> None:
        came = self._can is None or self.health is not Health.OK
        self._can, self._told = can, None
        if came and not self._draining:
            self.health, self.note = Health.OK, passed_through(can)
            self.log.info("%s is served by %s", self.model, self.note)
            await self.renew_lease()
            self.emit(ModelReady(node=self.ctx.node, facts=relayed_facts(self.model, backend, can)))

    def _away(self, failure: Failure) -> None:
        """The server does not answer; each reason is published once."""
        if not self._draining:
            self.health = Health.DEGRADED
        self.note = failure.with_advice
        if self._told != failure.message:
            self._told = failure.message
            self.log.warning("%s: %s", self.model, self.note)
            self.emit(ModelFailed(model=self.model, node=self.ctx.node, failure=failure))

    def facts(self) -> RelayFacts:
        """What `twd status`, doctor and the edge read about this relay."""
        can = self._can
        facts = RelayFacts(
            model=self.model,
            ready=can is not None and self.health is Health.OK,
            sessions=len(self._lines),
            breaker=self._breaker.state(self.clock.now()).value,
        )
        if can is None:
            return facts
        return replace(
            facts,
            backend=can.kind,
            upstream_model=can.model,
            ctx_size=can.context,
            architecture=can.architecture,
            quantization=can.quantization,
            scores=can.score,
            version=can.version,
        )

    async def quiesce(self) -> None:
        """Take no new jobs, and wait until the running ones end."""
        self._draining = True
        await self._idle.wait()

    async def teardown(self) -> None:
        """Close the connection. Jobs that still run end with WORKER_LOST, and their owners submit them again."""
        failure = Failure(code=FailureCode.WORKER_LOST, message="the relay is shutting down")
        for line in list(self._lines.values()):
            self._tell(line.relayed.fail(failure, self.clock.now()))
            self._let_go(line)
        if self._can is not None:
            self.emit(ModelUnloaded(model=self.model, node=self.ctx.node))
        if self._backend is not None:
            await self._backend.close()

    # -- jobs ----------------------------------------------------------------------------------

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        """Refuse at once what cannot be served; send the rest to the server. If this attempt or a newer one runs
        already, only confirm it.
        """
        held = self._lines.get(event.job)
        if held is not None and held.relayed.job.owner != event.owner:
            text = f"another client has a job with the name {event.job!r} in hand"
            failure = Failure(code=FailureCode.BUSY, message=text)
            reply(JobFailed(job=event.job, attempt=event.attempt, failure=failure))
            return None
        if held is not None and held.relayed.job.attempt >= event.attempt:
            reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance))
            return None
        refusal = self._refusal(event)
        call = self._breaker.enter(self.clock.now()) if refusal is None else None
        if call is None:
            reply(JobFailed(job=event.job, attempt=event.attempt, failure=refusal or self._left_alone()))
            return None
        reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance))
        if held is not None:  # a newer attempt takes the place of an older one
            self._let_go(held)
        relayed = RelayedJob(event, self.ctx.ids.session(), self.model, self.clock.now())
        self._idle.clear()
        self._tell(relayed.start(self.clock.now()))
        task = self.tasks.start(f"relay {event.job}", self._relay(relayed, call))
        self._lines[event.job] = _Line(relayed, task, call)
        return None

    def _refusal(self, job: JobSubmitted) -> Failure | None:
        if self._draining:
            return Failure(code=FailureCode.DRAINING, message="this relay is shutting down")
        if len(self._lines) >= JOBS_MAX:
            return Failure(
                code=FailureCode.BUSY, message=f"{len(self._lines)} jobs of {self.model} are running already"
            )
        if job.resume:
            text = f"{self.model} is another program's: it cannot go on with a text that was begun elsewhere"
            return Failure(code=FailureCode.UNSUPPORTED, message=text)
        if job.prompt.suffix:
            text = f"{self.model} is another program's: texts between a prompt and a suffix are not asked of it"
            return Failure(code=FailureCode.UNSUPPORTED, message=text, field="suffix")
        if job.prompt.truncate:
            text = f"{self.model} is another program's: what fits its context is not known, so nothing can be left out"
            return Failure(code=FailureCode.UNSUPPORTED, message=text, field="truncation")
        if sum(part is not None for part in (job.prompt.messages, job.prompt.text, job.prompt.tokens)) != 1:
            text = "give messages, a text or tokens: exactly one of them"
            return Failure(code=FailureCode.BAD_REQUEST, message=text, field="prompt")
        if self._can is None:
            return Failure(code=FailureCode.BACKEND_DOWN, message=f"{self.model}: {self._told or self.note}"[:4096])
        return None

    def _left_alone(self) -> Failure:
        text = f"{self.model} is left alone for {self._cooldown_s:g} s after failing: {self._breaker.why}"
        return Failure(code=FailureCode.BACKEND_DOWN, message=text[:4096])

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        """The owner cancels its job: close the connection, so that the server stops computing."""
        line = self._lines.get(event.job)
        if line is None or line.relayed.job.owner != event.source:
            return None
        if not event.attempts or line.relayed.job.attempt <= event.attempts:
            failure = Failure(code=FailureCode.CANCELLED, message=event.reason or "cancelled")
            self._tell(line.relayed.fail(failure, self.clock.now()))
            self._let_go(line)
        return None

    def _let_go(self, line: _Line) -> None:
        """Stop reading. All is cleaned up here, because a task that has not begun would not run its own clean-up."""
        line.relayed.ended = True
        line.task.cancel()
        self._breaker.abandoned(line.call)
        self._forget(line.relayed)

    def tick(self, now: float) -> Effects:
        """Send keep-alives for jobs that wait for their next piece."""
        for line in self._lines.values():
            self._tell(line.relayed.keep_alive(now))
        return None

    # -- one job -------------------------------------------------------------------------------

    async def _relay(self, relayed: RelayedJob, call: BreakerPermit) -> None:
        try:
            async with asyncio.timeout(relayed.job.deadline_ms / 1000):
                await self._with_retries(relayed)
            self._breaker.succeeded()
        except TimeoutError:
            self._breaker.abandoned(call)
            text = f"the job was not done within {relayed.job.deadline_ms / 1000:g} s"
            self._fail(relayed, TwdError(FailureCode.DEADLINE, text))
        except TwdError as error:
            self._judge(error, call)
            self._fail(relayed, error)
        except asyncio.CancelledError:
            self._breaker.abandoned(call)
            raise
        finally:
            self._forget(relayed)

    def _judge(self, error: TwdError, call: BreakerPermit) -> None:
        """Tell the circuit breaker whether a failure is the server's fault."""
        if error.code not in _SERVERS_FAULT:
            self._breaker.abandoned(call)
        elif self._breaker.failed(self.clock.now(), str(error), call):
            self._away(error.failure)

    def _fail(self, relayed: RelayedJob, error: TwdError) -> None:
        self._tell(relayed.fail(error.failure, self.clock.now()))

    def _forget(self, relayed: RelayedJob) -> None:
        line = self._lines.get(relayed.job.job)
        if line is not None and line.relayed is relayed:
            del self._lines[relayed.job.job]
        if not self._lines:
            self._idle.set()

    async def _with_retries(self, relayed: RelayedJob) -> None:
        """Try again if the server could not be reached and no text was published yet."""
        if relayed.job.max_tokens == 0:
            self._tell(relayed.take(TextPiece(end=FinishReason.LENGTH), self.clock.now()))
            return
        for pause in pauses(RETRIES):
            try:
                await self._pass_on(relayed)
                return
            except TwdError as error:
                if relayed.begun or error.code is not FailureCode.BACKEND_DOWN:
                    raise
                self.log.info("trying %s again: %s", relayed.job.job, error)
            await asyncio.sleep(pause)
        await self._pass_on(relayed)

    async def _pass_on(self, relayed: RelayedJob) -> None:
        assert self._backend is not None
        flushing: asyncio.Handle | None = None
        async with aclosing(self._backend.stream(wish_of(relayed.job))) as pieces:
            async for piece in pieces:
                first = not relayed.waits
                self._tell(relayed.take(piece, self.clock.now()))
                if relayed.ended:
                    if flushing is not None:
                        flushing.cancel()
                    return
                if first and relayed.waits:
                    flushing = self._flush_soon(relayed)
        raise self._backend.upstream.broken("ended without an end")

    def _flush_soon(self, relayed: RelayedJob) -> asyncio.Handle:
        """Publish pieces that came together as one event."""
        loop = asyncio.get_running_loop()
        if relayed.job.whole:
            return loop.call_later(GATHER_S, self._flush, relayed)
        return loop.call_soon(self._flush, relayed)

    def _flush(self, relayed: RelayedJob) -> None:
        try:
            self._tell(relayed.flush(self.clock.now()))
        except Exception as error:  # noqa: BLE001 - the edge: told to the bus and fatal
            self.fail(error, "flush")

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self.emit(event)
