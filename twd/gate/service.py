"""The gate service: takes jobs for NAME+gate, lets members write answers and lets the target judge them. The decisions
are in core.py.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from msgspec.structs import replace

from twd.bus.base import BusError, Leases, NoResponders, SubscriptionOptions
from twd.gate.actions import FoundAnswer
from twd.gate.auditing import AuditRun
from twd.gate.cache import Cache, key_of
from twd.gate.calibration import profile
from twd.gate.calibration.parts import TARGET, Parts, cancelled_by
from twd.gate.calibration.record import record
from twd.gate.core import GateJob
from twd.gate.members import BEHIND, members_of, targets_of
from twd.gate.records import GateRecords
from twd.gate.request import GateRequest
from twd.gate.returning import ServedTargets
from twd.gate.routing import Fleet
from twd.gate.trust import AuditTask, Trust
from twd.gate.verdict import Terms
from twd.kit.jobs.owner import OwnerPolicy
from twd.kit.jobs.owning_service import OF_JOBS, OF_WORKERS, JobEvent, OwningService
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, ServiceContext
from twd.kit.tasks import every
from twd.settings.model import Settings
from twd.wire.base import Event, InstanceId, JobId, ModelId
from twd.wire.codec import Rejected
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
from twd.wire.judging import GATE, AnswerAudited, AnswerJudged, ModeClosed
from twd.wire.leases.base import ServerFacts
from twd.wire.leases.gate import GateFacts
from twd.wire.model import ModelReady
from twd.wire.routes import ROUTE_OF
from twd.wire.service import (
    Health,
    ServiceLease,
    read_lease,
    told_by,
)

JOBS_MAX = 256
LOOK_S = 2.0
SETTLE = 3
"""An owner counts as gone when it is missing from this many registry reads in a row."""


class Gate(OwningService):
    """Serves NAME+gate for every model that may judge."""

    name = "gate"
    reads = (
        JobSubmitted,
        JobCancelled,
        *OF_JOBS,
        ModelReady,
        *OF_WORKERS,
    )
    reads_later: ClassVar[tuple[type[Event], ...]] = (JobSubmitted,)
    writes = (
        JobQueued,
        JobSubmitted,
        JobCancelled,
        JobStarted,
        TokensAccepted,
        JobFinished,
        JobFailed,
        AnswerJudged,
        AnswerAudited,
        ModeClosed,
    )
    tick_s = 0.1

    def __init__(self, ctx: ServiceContext, settings: Settings, dice: Callable[[], float] = random.random) -> None:
        super().__init__(ctx)
        self.settings = settings
        self.instruction = settings.gate.verification_prompt
        self.fleet = Fleet(members_of(settings), settings.gate.routing)
        self.targets = [ModelId(name) for name in targets_of(settings)]
        self.parts = Parts(self.clock.now, self.submit_job, self.emit)
        self.cache = Cache()
        self.trust = Trust(settings.home_dir, str(settings.gate.hold), settings.gate.audit)
        self._records = GateRecords(self.fleet, self.trust, self.clock.now(), dice)
        self._auditing: AuditRun | None = None
        self._dice = dice
        self._requests: dict[JobId, GateRequest] = {}
        self._registry: Leases | None = None
        self._seen: list[ServiceLease] = []
        self._served = ServedTargets()
        self._missed: dict[InstanceId, int] = {}
        self._draining = False
        self._listens = False

    # -- start and stop ------------------------------------------------------------------------

    async def setup(self) -> None:
        """Read the registry once, and then again every LOOK_S seconds."""
        self._registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        await self._look()
        self.tasks.start("registry", every(LOOK_S, self._look))

    async def start(self) -> None:
        """Subscribe to the jobs of all models that may judge."""
        await super().start()
        if not self.ended.is_set():
            await self.listen((), [self._hearing_of(name) for name in self.targets])
            self._listens = True

    def _hearing_of(self, target: ModelId) -> SubscriptionOptions:
        route = ROUTE_OF[JobSubmitted]
        subject = route.pattern_for(model=target + GATE)
        return SubscriptionOptions(
            subject, partial(self._receive, route, self.on_job_submitted), route.group, when_full=route.when_full
        )

    async def _look(self) -> None:
        if self._registry is None:
            return
        try:
            entries = await self._registry.entries()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        self._seen = [lease for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
        self.workers_seen(self._seen)
        self._look_for_owners()
        await self._take_new_targets()
        self.trust.reload(self.targets, self.fleet.members)

    async def _take_new_targets(self) -> None:
        """Subscribe to the jobs of models that appeared in the registry after the start."""
        served = {facts.model for _, facts in told_by(self._seen, ServerFacts)}
        self._served.see(served, self.clock.now())
        names = {name for name in served if name and not name.endswith(BEHIND)}
        new = sorted(names - set(self.targets) - {ModelId(name) for name in self.fleet.members})
        if self._listens and new:
            self.targets += new
            await self.listen((), [self._hearing_of(name) for name in new])

    def _look_for_owners(self) -> None:
        """Cancel requests whose owner is missing from the registry: a killed process sends no event."""
        alive = {lease.instance for lease in self._seen}
        owners = {request.job.owner for request in self._requests.values()}
        for owner in owners:
            self._missed[owner] = 0 if owner in alive else self._missed.get(owner, 0) + 1
            if self._missed[owner] >= SETTLE:
                self._owner_gone(owner)
        self._missed = {owner: count for owner, count in self._missed.items() if owner in owners}

    def facts(self) -> GateFacts:
        """What `twd status` and the edge read about this gate."""
        return replace(
            self._records.facts(self.clock.now(), self.cache.hits),
            ready=self.health is Health.OK,
            gates=[str(name) for name in self.targets],
            verifier=self.settings.gate.verifier or self.settings.default_model,
            requests=len(self._requests),
            cannot_score=[str(name) for name in self.targets if self._scores(name) is False],
        )

    async def quiesce(self) -> None:
        """Take no new jobs. When the gate stops, owners submit the running jobs elsewhere, with the text
        already sent.
        """
        self._draining = True

    async def teardown(self) -> None:
        """End the running requests with WORKER_LOST, so that their owners submit them again."""
        failure = Failure(code=FailureCode.WORKER_LOST, message="the gate is shutting down")
        for request in list(self._requests.values()):
            for job in list(request.jobs.values()):
                self.parts.stop(job, "the gate is shutting down")
            job, attempt = request.job.job, request.job.attempt
            self.emit(JobFailed(job=job, attempt=attempt, failure=failure, session=request.session))
        self._requests.clear()

    # -- jobs ----------------------------------------------------------------------------------

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        """Accept a request or refuse it at once. A newer attempt of a running job replaces the older one."""
        held = self._requests.get(event.job)
        if held is not None and held.job.attempt >= event.attempt:
            reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance))
            return None
        refusal = self._refusal(event)
        if refusal is not None:
            reply(JobFailed(job=event.job, attempt=event.attempt, failure=refusal))
            return None
        reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance))
        if held is not None:
            self._drop(held, "a newer attempt")
        self._begin(event)
        return None

    def _refusal(self, job: JobSubmitted) -> Failure | None:
        if self._draining:
            return Failure(code=FailureCode.DRAINING, message="this gate is shutting down")
        if len(self._requests) >= JOBS_MAX:
            return Failure(code=FailureCode.BUSY, message=f"{len(self._requests)} requests are judged already")
        if job.grammar is not None or job.logprobs is not None or job.judge is not None:
            text = f"{job.model} takes no grammar, logprobs or judge: ask the model itself"
            return Failure(code=FailureCode.UNSUPPORTED, message=text)
        return None

    def _begin(self, event: JobSubmitted) -> None:
        now, target = self.clock.now(), ModelId(event.model.removesuffix(GATE))
        job = event
        if job.sampling.seed is None:
            job = replace(job, sampling=replace(job.sampling, seed=self.ctx.ids.seed()))
        names = self.fleet.order(job, self._dice, barred=(target,))
        if self.settings.gate.record:
            record(self.settings.home_dir, job)
        core = GateJob(job, self._terms(job, target, names), names, now)
        request = GateRequest(job, core, target, self.ctx.ids.session(), self, now, spoke_at=now, index=len(job.resume))
        self._requests[job.job] = request
        if self._steps_aside(job, target):
            request.run(lambda _: core.pass_through("writing takes the target no longer than judging"))
        else:
            request.run(core.begin)

    def _terms(self, job: JobSubmitted, target: ModelId, members: Sequence[str]) -> Terms:
        gate = self.settings.gate
        return Terms(
            rules=self.trust.rules(job, target, members, self._facts_of),
            hold=0 if job.whole or gate.hold == "answer" else gate.hold,
            ask=gate.ask,
            retries=gate.max_retries,
            patience_s=gate.patience_s,
            in_words=self._in_words(target),
            fail_open=gate.fail_open,
        )

    def _in_words(self, target: ModelId) -> bool:
        judge = self.settings.gate.judge
        return judge == "prompt" or (judge == "auto" and self._scores(target) is False)

    def _servers(self, model: str) -> list[ServerFacts]:
        return [facts for _, facts in told_by(self._seen, ServerFacts) if facts.model == model]

    def _facts_of(self, model: str) -> ServerFacts | None:
        return next(iter(self._servers(model)), None)

    def _scores(self, target: ModelId) -> bool | None:
        """Whether a model can score given tokens; None if no loaded worker serves it now."""
        told = [facts.judges for facts in self._servers(target) if facts.ready]
        return any(told) if told else None

    def _steps_aside(self, job: JobSubmitted, target: ModelId) -> bool:
        if not self.settings.gate.economy or job.resume or self._in_words(target):
            return False
        return not self._records.judging_pays(target)

    def grammars(self, model: ModelId) -> bool:
        """Whether a model obeys a grammar. All models that run here do."""
        return model in self.settings.models

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        """Cancel the request: its client does not want it any more."""
        request = self._requests.get(event.job)
        if request is not None and cancelled_by(event, request.job.attempt):
            request.run(lambda now: request.core.cancel(event.reason))
        return None

    def patience(self, target: ModelId) -> OwnerPolicy:
        """How long jobs of a target wait for somebody who takes them; not long if an answer may go unjudged."""
        return TARGET if self.settings.gate.fail_open else self._served.policy(target, self.clock.now())

    def _drop(self, request: GateRequest, why: str) -> None:
        for job in list(request.jobs.values()):
            self.parts.stop(job, why)
        self._requests.pop(request.job.job, None)

    def _owner_gone(self, owner: InstanceId) -> None:
        for request in [one for one in self._requests.values() if one.job.owner == owner]:
            request.run(lambda now, request=request: request.core.cancel("its owner is gone"))  # type: ignore[misc]

    # -- what requests call (see House in request.py) ---------------------------------------

    def now(self) -> float:
        """The clock's time, in seconds."""
        return self.clock.now()

    def emit_for(self, event: Event) -> None:
        """Publish an event for a request."""
        self.emit(event)

    def score_key(self, job: JobSubmitted, target: ModelId) -> bytes:
        """The cache key of a verdict; empty if verdicts are not cached."""
        if not self.settings.gate.cache_identical:
            return b""
        return key_of(job, target, profile.identity(self._facts_of(target)))

    def found(self, request: GateRequest, found: FoundAnswer) -> None:
        """Add a verdict to the record of the member."""
        self._records.found(found)

    def wrote(self, request: GateRequest, name: str, seconds: float) -> None:
        """Note how many seconds a member took to write an answer."""
        self._records.wrote(request.job, name, seconds)

    def over(self, request: GateRequest, finished: JobFinished | None) -> None:
        """Remove a request that ended, count it and publish its verdict and cost."""
        self._requests.pop(request.job.job, None)
        judged = self._records.ended(request, finished)
        if judged is not None:
            self.emit(judged)

    # -- audits --------------------------------------------------------------------------------

    def _audit_next(self) -> None:
        """Start an audit if no request is running: the target writes an answer that passed, to compare."""
        if self._auditing is None and self.trust.waiting and not self._requests and not self._draining:
            self._auditing = AuditRun(self.trust.waiting.popleft(), self.parts, self.instance, self._audited)
            self._auditing.begin()

    def _audited(self, task: AuditTask, wrong: bool | None, target_ms: float) -> None:
        self._auditing = None
        if wrong is None or (task.target, task.member) not in self.trust.standing:
            return
        for event in self._records.audited(task, wrong, target_ms):
            if isinstance(event, ModeClosed):
                self.log.warning("%s by %s is exact from now on: %s", event.model, event.member, event.why)
            self.emit(event)

    # -- events --------------------------------------------------------------------------------

    def job_event(self, event: JobEvent) -> None:
        """A part has started, sent text or ended."""
        self.parts.hear(event)

    def job_answered(self, answer: JobQueued | JobFailed) -> None:
        """A part was taken or refused."""
        self.parts.answered(answer)

    def job_unanswered(self, job: JobSubmitted, failure: Failure) -> None:
        """Nobody took a part."""
        self.parts.unanswered(job, failure)

    def why_unanswered(self, job: JobSubmitted, answer: Event | Rejected | BusError) -> Failure:
        """Why nobody took a part."""
        code = FailureCode.NOBODY_HOME if isinstance(answer, NoResponders) else FailureCode.WORKER_LOST
        text = f"nobody serves {job.model} now" if isinstance(answer, NoResponders) else f"no answer: {answer}"
        return Failure(code=code, message=text[:4096])

    def bus_back(self) -> None:
        """The bus is back after a loss."""
        self.parts.bus_back()

    def worker_gone(self, instance: InstanceId) -> None:
        """A process has ended: a worker of parts, or the owner of requests."""
        self.parts.gone(instance)
        self._owner_gone(instance)

    def on_model_ready(self, event: ModelReady) -> Effects:
        """A model is ready, so parts that wait for it may be submitted."""
        self.parts.came(event.facts.model)
        return None

    def tick(self, now: float) -> Effects:
        """Check the deadlines of parts, start an audit, look for late members and send keep-alives."""
        self.parts.tick()
        self._audit_next()
        for request in list(self._requests.values()):
            late_s = max((self.fleet.late_s(name) for name in request.core.asked), default=0.0)
            request.run(lambda at, request=request, late_s=late_s: request.core.tick(at, late_s))  # type: ignore[misc]
            request.keep_alive(now)
        return None
