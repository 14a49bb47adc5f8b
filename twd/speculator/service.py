"""The speculator on the bus: takes jobs, publishes text. Decisions are in `core`, the engine's thread in runner.py."""

import asyncio
from collections.abc import Callable

import msgspec

from twd.bus.base import BusError
from twd.kit.effects import Do, Effect, Publish
from twd.kit.model_service import ModelService
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, ServiceContext
from twd.kit.tasks import soon
from twd.process.compute import crowding, effort
from twd.speculator.admission.job_intake import JobIntake
from twd.speculator.admission.job_ownership import JobOwnership
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.drafters.attachments import DrafterAttachments
from twd.speculator.drafters.calibration import JUDGING_S
from twd.speculator.events import READS, READS_LATER, WORK, WRITES
from twd.speculator.lease_facts import facts_of
from twd.speculator.opening import core_for
from twd.speculator.runner import Command, Runner
from twd.speculator.targets.decode_watchdog import DecodeWatchdog, PassUnderWay
from twd.speculator.targets.embeddings import EmbeddingQueue
from twd.speculator.targets.loaded import Load, LoadedModel
from twd.speculator.targets.memory_care import ReclaimedMemory, nothing_reclaimed, outcome_of
from twd.speculator.targets.source import TargetSource
from twd.wire.base import Event, InstanceId, JobId, ModelId, SessionId
from twd.wire.draft import DeviceKind, DrafterAttached, DrafterChecked, DrafterDetached, DraftProposed
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobQueued, JobSubmitted, TokensAccepted
from twd.wire.judging import TokensAgreed
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.life import MemoryReclaimed, ReclaimWanted
from twd.wire.model import ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.routes import ROUTE_OF
from twd.wire.service import Health, ServiceStopped

_ENDS = (JobFinished, JobFailed)
_LEASE_CHECK_S = 5.0


class SpeculatorService(ModelService[LoadedModel]):
    """Serves one model: it takes jobs from the queue group, verifies drafts and publishes accepted tokens."""

    name = "speculator"
    reads = READS
    reads_later = READS_LATER
    writes = WRITES
    tick_s = 1.0

    def __init__(self, ctx: ServiceContext, model: ModelId, source: TargetSource) -> None:
        super().__init__(ctx, model)
        self._source = source
        self._cores = source.cores
        self.loaded: LoadedModel | None = None
        self._runner: Runner | None = None
        self._core: SpeculatorCore | None = None
        self._embeddings: EmbeddingQueue | None = None
        self._intake: JobIntake | None = None
        self._owners = JobOwnership()
        self._drafters = DrafterAttachments(model, self.instance, self._post)
        self._watch = DecodeWatchdog()
        self._look_at_leases_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    def pattern(self, event_type: type[Event]) -> str:
        """Returns the subject pattern of an event, limited to this speculator's model."""
        route = ROUTE_OF[event_type]
        return route.pattern_for(model=self.model) if "model" in route.keys else super().pattern(event_type)

    # -- life ----------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Prepare the source of the target."""
        await self._source.open(self)

    async def start(self) -> None:
        """Start the service, and watch the parts of the target."""
        await super().start()
        if not self.ended.is_set():
            await self.listen(self._source.hears)
            self.tasks.start("watch", self._source.watch())

    async def loader(self) -> Load:
        """Returns the function that loads the model, when everything that it needs is there."""
        return await self._source.acquire()

    def cannot_load(self, error: TwdError, new: bool) -> None:
        """Report that a try failed."""
        self._source.failed()
        super().cannot_load(error, new)

    def tell_progress(self, share: float, stage: str) -> None:
        """Publish which share of the model is loaded."""
        self._source.progressed()
        super().tell_progress(share, stage)

    def tell_waiting(self, note: str) -> None:
        """Publish what the model waits for."""
        if note != self.note:
            self.note = note
            self.log.info("%s: %s", self.model, note)
            self.tasks.start("tell", self.renew_lease())

    @property
    def engine(self) -> Runner | None:
        """The thread that computes; None until the model is loaded."""
        return self._runner

    @property
    def jobs(self) -> int:
        """How many jobs are in hand."""
        return len(self._owners)

    @property
    def stopping(self) -> bool:
        """Whether the service ends."""
        return self._stopping

    def told_progress(self, share: float, stage: str) -> None:
        """Publish which share of the model is loaded."""
        self.emit(ModelLoading(model=self.model, node=self.ctx.node, progress=share, stage=stage))

    async def open_for_work(self, loaded: LoadedModel) -> None:
        """Start the engine's thread and take jobs."""
        self.loaded = loaded
        self._start_engine(loaded)
        self._embeddings = EmbeddingQueue(loaded)
        self._intake = JobIntake(loaded, self.clock.now)
        self.is_ready("exact" if loaded.exactness.exact else "not exact on this device")
        self.emit(
            ModelMeasured(model=self.model, node=self.ctx.node, exactness=loaded.exactness, cost=loaded.cost.points())
        )
        await self.listen(WORK)
        await self.renew_lease()
        facts = msgspec.structs.replace(loaded.facts, tool_format=loaded.tool_format)
        self.emit(ModelReady(node=self.ctx.node, facts=facts, load_ms=loaded.load_ms))
        self._source.serves(loaded)

    def _start_engine(self, loaded: LoadedModel) -> None:
        loop = asyncio.get_running_loop()
        self._core, shared_cost = core_for(loaded, self.model, self.instance, self.ctx.node)
        self._runner = Runner(
            self._core,
            loaded.target,
            loaded.cost,
            deliver=lambda effects: soon(loop, self._deliver, effects),
            failed=lambda error: soon(loop, self.fail, error, "engine"),
            shared_cost=shared_cost,
        )
        if self._cores is not None and loaded.limits.device is not DeviceKind.GPU:
            self._cores.enter(self.instance)
        self._runner.start()

    def facts(self) -> SpeculatorFacts:
        """Returns what `twd status` and the edge read of this speculator."""
        share = self._cores.facts() if self._cores is not None else None
        if self.loaded is None or self._core is None:
            facts = SpeculatorFacts(model=self.model, ready=False)
        else:
            facts = facts_of(self._core, self.loaded, share, ready=self.health is Health.OK)
        return self._source.facts(facts)

    async def quiesce(self) -> None:
        """Take no more jobs, and wait until those in hand have ended."""
        if self._core is not None:
            self._core.draining = True
        await self._idle.wait()
        if self._embeddings is not None:
            await self._embeddings.done()

    async def teardown(self) -> None:
        """Free the model, unless a thread still works with it. Then the memory is freed when the process ends."""
        if self._cores is not None:
            self._cores.leave()
        if self._loading is not None:
            self._loading.cancel()  # otherwise it would take jobs for a model that is being freed
        if not await self._is_at_rest():
            self.log.error("a thread that works with the model did not end")
        elif self.loaded is not None:
            self.emit(ModelUnloaded(model=self.model, node=self.ctx.node))
            self.loaded.close()

    async def _is_at_rest(self) -> bool:
        """Stop all threads; returns whether they ended. Jobs still in hand fail, so that their owners submit them
        again."""
        if self._runner is not None:
            failure = Failure(code=FailureCode.WORKER_LOST, message="the speculator is shutting down")
            self._runner.post(lambda core, now: core.fail_all(failure, now))
            if not await asyncio.to_thread(self._runner.stop):
                return False
            await asyncio.sleep(0)
        beside = [one.close() for one in (self._intake, self._embeddings) if one is not None]
        return all(await asyncio.gather(*beside))

    # -- jobs ----------------------------------------------------------------------------------

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        """Refuse at once a job that cannot be queued; prepare the others beside the event loop."""
        if self._core is None or self._intake is None:
            return None
        new, ahead = self._intake.is_new(event), 0
        try:
            self._owners.check(event)
            if new:
                ahead = self._core.check(event, len(self._intake))
        except TwdError as error:
            reply(JobFailed(job=event.job, attempt=event.attempt, failure=error.failure))
            return None
        reply(JobQueued(job=event.job, attempt=event.attempt, speculator=self.instance, ahead=ahead))
        if new:
            if event.judge is not None:
                self._drafters.trials.wait(self.clock.now(), JUDGING_S)
            for trial in self._drafters.trials.interrupt():
                self._cancel(trial, "a user's job arrived")
            session = self.ctx.ids.session()
            self._owners.take(event, session)
            self._take(self._intake, event, session)
        return None

    def _take(self, intake: JobIntake, job: JobSubmitted, session: SessionId) -> None:
        intake.take(job)
        self._idle.clear()
        self.tasks.start(f"prepare {job.job}", self._prepare(intake, job, session))

    async def _prepare(self, intake: JobIntake, job: JobSubmitted, session: SessionId) -> None:
        try:
            await intake.prepare(job, session, self._post, self._look_idle)
        except TwdError as error:
            self._refuse(job, error.failure)

    def _post(self, command: Command, *, droppable: bool = False) -> None:
        """Run a command on the engine's thread, once there is one."""
        if self._runner is not None:
            self._runner.post(command, droppable=droppable)

    def _refuse(self, job: JobSubmitted, failure: Failure) -> None:
        """Fail a job that never reached the core."""
        self.emit(JobFailed(job=job.job, attempt=job.attempt, failure=failure), cause=job.id)
        self._ended(job.job, job.attempt)
        self._look_idle()

    def on_embedding_requested(self, event: EmbeddingRequested, reply: Reply) -> Effects:
        """Answer a request for an embedding, beside the jobs."""
        if self._embeddings is not None:
            self.tasks.start(f"embed {event.job}", self._embeddings.answer(event, reply))
        return None

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        """Cancel a job. Only its owner may do that; cancels from others are ignored."""
        if self._owners.owner_of(event.job) in ("", event.source):
            self._cancel(event.job, event.reason, event.attempts)
        return None

    def _cancel(self, job: JobId, reason: str, attempts: int = 0) -> None:
        coming = self._intake.cancel(job, attempts) if self._intake is not None else None
        if coming is not None:
            self._refuse(coming, Failure(code=FailureCode.CANCELLED, message=reason or "cancelled"))
        self._post(lambda core, now: core.cancel(job, now, reason, attempts))

    def _deliver(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish) and isinstance(effect.event, _ENDS):
                self._ended(effect.event.job, effect.event.attempt)
            elif isinstance(effect, Publish) and isinstance(effect.event, DrafterChecked):
                self._drafters.trials.spare(effect.event.drafter)
            elif isinstance(effect, Publish) and isinstance(effect.event, TokensAccepted):
                self._source.accepted(len(effect.event.tokens))
        self.run_effects(effects)
        self.bus.push()
        self._look_idle()

    def _ended(self, job: JobId, attempt: int) -> None:
        self._owners.ended(job, attempt)
        drafter = self._drafters.trials.end(job, self.clock.now())
        if drafter is not None:
            self._post(lambda core, now: core.assess(drafter))

    def _look_idle(self) -> None:
        """If there is no other job, start the next trial of a drafter, one after the other."""
        if not self._owners:
            self._source.rests()
        if self._core is None or self._intake is None or not self._core.idle or self._intake:
            return
        trials = self._drafters.trials
        if trials.due(self.clock.now()) and not (self._core.draining or self._stopping):
            self._take(self._intake, trials.begin(self.ctx.ids.job()), self.ctx.ids.session())
        else:
            self._idle.set()

    # -- memory --------------------------------------------------------------------------------

    def on_reclaim_wanted(self, event: ReclaimWanted) -> Effects:
        """Free memory that is not needed, and publish how much that was."""
        if event.node != self.ctx.node or event.model not in ("", self.model):
            return None
        reclaim, told = self._source.reclaim, nothing_reclaimed(self.ctx.node, self.model)
        if reclaim is None or self.loaded is None:
            problem = "its weights are not in this process" if reclaim is None else "it is not loaded yet"
            return [Publish(msgspec.structs.replace(told, problem=problem))]
        return [Do("reclaim", lambda: self._tell_reclaimed(reclaim, told))]

    async def _tell_reclaimed(self, reclaim: Callable[[], ReclaimedMemory], told: MemoryReclaimed) -> None:
        self.emit(await asyncio.to_thread(outcome_of, reclaim, told))

    # -- drafters ------------------------------------------------------------------------------

    def on_drafter_attached(self, event: DrafterAttached) -> Effects:
        """Attach a drafter whose drafts can be used; otherwise publish why they cannot."""
        if self.loaded is None or self._runner is None or event.for_model not in ("", self.model):
            return None
        refused = self._drafters.offered(event, self.loaded, self.ctx.node)
        self._look_idle()
        return None if refused is None else [Publish(refused)]

    def on_drafter_detached(self, event: DrafterDetached) -> Effects:
        """Detach a drafter that left."""
        self._drafters.left(event.drafter)
        return None

    def on_draft_proposed(self, event: DraftProposed) -> Effects:
        """Pass drafts to the engine's thread, which drops them if too many wait."""
        if self.loaded is None:
            return None
        tokens = event.tokens or (self.loaded.tokenize(event.text) if event.text else [])
        self._post(lambda core, now: core.draft(event, tokens, now), droppable=True)
        return None

    def on_tokens_agreed(self, event: TokensAgreed) -> Effects:
        """Pass tokens on which drafters agree to the engine's thread."""
        self._post(lambda core, now: core.agree(event, now), droppable=True)
        return None

    def on_service_stopped(self, event: ServiceStopped) -> Effects:
        """Forget a service that stopped: a drafter, or the owner of jobs, which are cancelled."""
        self._drafters.left(event.source)
        self._owner_gone(event.source)
        return None

    def _owner_gone(self, instance: InstanceId) -> None:
        for job in self._owners.jobs_of(instance):
            self._cancel(job, "its owner is gone")

    # -- parts of the target -------------------------------------------------------------------

    def _hear_of_target(self, event: Event) -> Effects:
        self._source.hear(event)
        return None

    on_stage_ready = on_stage_gone = on_placement_decided = on_node_changed = _hear_of_target
    """A stage, the placement of a model, or a machine has changed."""

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> Effects:
        """Send signs of life, and check whether the device hangs and whether owners and drafters are alive."""
        self._source.tick()
        if self._runner is None or self.loaded is None or self._intake is None:
            return None
        if self._cores is not None:
            self._cores.look()
        self._runner.post(lambda core, at: core.tick(at), droppable=True)
        loaded, pace = self.loaded, self._runner.pace
        self._watch.check(pace, loaded.cost, loaded.limits.device, now, effort(), crowding())
        self._look_idle()
        since = self._runner.busy_since
        in_long_pass = since is not None and now - since > self.loaded.limits.keepalive_s
        for sign in self._owners.signs_of_life(None if in_long_pass else self._intake.in_preparation):
            self.emit(sign)  # the engine's thread sends no sign of life during a long pass, or for jobs in preparation
        if (self._owners or self._drafters) and now >= self._look_at_leases_at:
            self._look_at_leases_at = now + _LEASE_CHECK_S
            self.tasks.start("leases", self._check_leases())
        return None

    def under_way(self) -> PassUnderWay | None:
        """Returns the pass that the CPU of this machine computes now; None for other devices, which are watched by
        their usual pass times."""
        if self._source.watched or self._runner is None or self.loaded is None:
            return None
        return self._runner.pace.now if self.loaded.limits.device is DeviceKind.CPU else None

    async def _check_leases(self) -> None:
        """Forget owners and drafters whose lease is gone: they were killed and could not say so. A drafter that was
        only cut off is attached again when its lease is back."""
        counted_on = self._owners.instances | self._drafters.here
        try:
            leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            alive = {InstanceId(entry.key) for entry in await leases.entries()}
        except BusError:
            return  # without the registry it is not known who is gone
        if self.instance not in alive:
            return
        for gone in counted_on - alive:
            self.log.warning("%s is gone; its jobs are cancelled, and its guesses are waited for no more", gone)
            self._drafters.lost(gone)
            self._owner_gone(gone)
        self._drafters.attach_returned(alive)
