"""A stage on the bus: publishes what it holds, joins a ring when told, and reports how that goes."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from twd.engine.experts.facts import expert_facts
from twd.engine.pass_threads import with_threads_in_use
from twd.kit.service import Effects, Reply, Service, ServiceContext
from twd.kit.tasks import in_a_thread_of_its_own, soon
from twd.process.core_registry import OwnCores
from twd.ring.trust import make_identity
from twd.stage.loaded import Load, LoadedSlice
from twd.stage.membership import RingMembership
from twd.stage.server import LinkRules, StageHooks, StageServer
from twd.stage.worker import StageCounters
from twd.wire.base import Event, InstanceId, ModelId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.workers import StageFacts
from twd.wire.model import ModelFailed, ModelLoading
from twd.wire.names import origin_of
from twd.wire.ring import (
    FrameFault,
    FrameRefused,
    RingMeasured,
    RingWired,
    StageAnswered,
    StageGone,
    StageReady,
)
from twd.wire.routes import ROUTE_OF
from twd.wire.service import Health

_TICK_S: Final = 1.0
_SILENT_TICKS: Final = 10
"""A ring that computes nothing is reported only every so many ticks."""
_PROGRESS: Final = 0.1


@dataclass(frozen=True)
class StageAddress:
    """Where a stage listens (port 0: a free one), and the host name or address that others are told."""

    host: str = "127.0.0.1"
    port: int = 0
    told: str = ""


class StageService(Service):
    """One slice of a model, for rings that speculators make."""

    name = "stage"
    reads = (RingWired,)
    writes = (StageReady, StageGone, RingMeasured, FrameRefused, ModelLoading, ModelFailed)
    tick_s = _TICK_S

    def __init__(
        self,
        ctx: ServiceContext,
        model: ModelId,
        load: Load,
        address: StageAddress,
        rules: LinkRules,
        cores: OwnCores | None = None,
    ) -> None:
        """`cores`: its entry in the registry of CPU use on this computer; None: it shares no CPU cores with others."""
        super().__init__(ctx)
        self._cores = cores
        self.model = model
        self.settled = asyncio.Event()
        """Set when loading has ended, with or without success."""
        self._load = load
        self._address = address
        self._rules = rules
        self._server: StageServer | None = None
        self._ready: StageReady | None = None
        self._told = StageCounters()
        self._told_at = 0.0
        self._silent_ticks = 0
        self._told_share = 0.0
        self._idle = asyncio.Event()

    def pattern(self, event_type: type[Event]) -> str:
        """Subscribe only to wirings of this stage."""
        return ROUTE_OF[event_type].pattern_for(to=origin_of(self.instance))

    # -- loading -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start at once; join rings when the slice is loaded."""
        await super().start()
        if not self.ended.is_set():
            self.health = Health.STARTING
            self.tasks.start("load", self._load_slice())

    async def _load_slice(self) -> None:
        loop = asyncio.get_running_loop()

        def progress(share: float, stage: str) -> None:
            soon(loop, self._tell_progress, share, stage)

        try:
            ready = await in_a_thread_of_its_own(lambda: self._open(self._load(progress), loop))
        except TwdError as error:
            self.log.error("%s cannot be loaded: %s (%s)", self.model, error, error.failure.advice)
            self.health, self.note = Health.DEGRADED, error.failure.with_advice
            self.emit(ModelFailed(model=self.model, node=self.ctx.node, failure=error.failure))
            self.give_up(error, "cannot load")
        else:
            self.health, self.note, self._ready = Health.OK, "ready", ready
            await self.renew_lease()
            self.emit(ready)
        self.settled.set()

    def _open(self, loaded: LoadedSlice, loop: asyncio.AbstractEventLoop) -> StageReady:
        """Start the server of a loaded slice; return its description. Runs on a thread of its own."""
        if self.ended.is_set():
            loaded.engine.close()
            raise TwdError(FailureCode.DRAINING, "told to stop while it loaded")
        hooks = StageHooks(
            fault=lambda fault, peer, detail, count: soon(loop, self._tell_fault, fault, peer, detail, count),
            ring_over=lambda ring, reason: soon(loop, self._ring_over, ring, reason),
            failed=lambda error: soon(loop, self.fail, error, "engine"),
        )
        identity = make_identity(self.instance)
        server = StageServer(InstanceId(self.instance), loaded.held, loaded.engine, identity, self._rules, hooks)
        try:
            port = server.listen(self._address.host, self._address.port)
        except TwdError:
            loaded.engine.close()
            raise
        self._server = server
        if self._cores is not None and not loaded.offloads:
            self._cores.enter(self.instance)
        return self._description(loaded, identity.certificate, port)

    def _description(self, loaded: LoadedSlice, certificate: str, port: int) -> StageReady:
        host = self._address.told or self._address.host
        return loaded.described(InstanceId(self.instance), self.ctx.node, host, port, certificate)

    def _tell_progress(self, share: float, stage: str) -> None:
        self.note = f"{stage} {share:.0%}"
        if share >= self._told_share + _PROGRESS:
            self._told_share = share
            self.emit(ModelLoading(model=self.model, node=self.ctx.node, progress=min(share, 1.0), stage=stage))

    # -- events --------------------------------------------------------------------------------

    def on_ring_wired(self, event: RingWired, reply: Reply) -> Effects:
        """Join a ring, or answer why not."""
        failure: Failure | None = None
        try:
            self._wire(event)
        except TwdError as error:
            failure = error.failure
            self.log.warning("ring %s: %s", event.ring, error)
        reply(StageAnswered(ring=event.ring, stage=InstanceId(self.instance), failure=failure))
        return None

    def _wire(self, event: RingWired) -> None:
        if self._server is None or self._ready is None:
            raise TwdError(FailureCode.NOBODY_HOME, f"{self.instance} is not ready: {self.note}")
        if self.health is Health.DRAINING:
            raise TwdError(FailureCode.DRAINING, f"{self.instance} is shutting down")
        self._server.wire(event)
        self.log.info("stage %d of %d in ring %s of %s", event.index + 1, event.count, event.ring, event.home)

    def _ring_over(self, ring: str, reason: str) -> None:
        self.log.info("ring %s is over: %s", ring, reason)
        self._look_whether_idle()

    def _tell_fault(self, fault: FrameFault, peer: str, detail: str, count: int) -> None:
        self.log.warning("%s from %s (%d times): %s", fault, peer, count, detail)
        here = InstanceId(self.instance)
        self.emit(FrameRefused(stage=here, node=self.ctx.node, fault=fault, peer=peer, detail=detail, repeated=count))

    def under_way(self) -> float | None:
        """Return when the running decode began (time.perf_counter); None when none runs."""
        return self._server.worker.under_way if self._server is not None else None

    # -- figures -------------------------------------------------------------------------------

    def tick(self, now: float) -> Effects:
        """Publish what this stage did since the last report."""
        if self._cores is not None:
            self._cores.look()
        self._look_whether_idle()
        membership = self._server.membership if self._server is not None else None
        if self._server is None or membership is None:
            return None
        counters = replace(self._server.worker.counters)  # the engine's thread goes on counting
        since = counters.since(self._told)
        self._silent_ticks = 0 if since.passes else self._silent_ticks + 1
        if self._silent_ticks % _SILENT_TICKS:
            return None
        self._told, seconds = counters, now - self._told_at if self._told_at else _TICK_S
        self._told_at = now
        self.emit(self._measured(membership, since, seconds))
        return None

    def _measured(self, membership: RingMembership, since: StageCounters, seconds: float) -> RingMeasured:
        """Return what it did in these seconds."""
        passes, wired = since.passes, membership.wired
        return RingMeasured(
            ring=wired.ring,
            stage=InstanceId(self.instance),
            node=self.ctx.node,
            model=self.model,
            index=wired.index,
            count=wired.count,
            first=wired.first,
            end=wired.end,
            seconds=round(seconds, 3),
            passes=passes,
            rows=since.rows,
            kept=since.kept,
            dropped=since.dropped,
            aborted=since.aborted,
            refused=since.refused,
            compute_ms=round(since.compute_s * 1000 / passes, 3) if passes else 0.0,
            queue_ms=round(since.queue_s * 1000 / passes, 3) if passes else 0.0,
            busy=round(since.compute_s / seconds, 3) if seconds > 0 else 0.0,
            sessions=membership.core.sessions,
            hops=membership.hops(),
        )

    def facts(self) -> StageFacts:
        """Return the facts of this stage for its lease."""
        share = with_threads_in_use(self._cores.facts() if self._cores is not None else None)
        if self._ready is None or self._server is None:
            return StageFacts(model=self.model, core_share=share)
        membership = self._server.membership
        return StageFacts(
            model=self.model,
            core_share=share,
            slice=self._ready,
            next=membership.way_on() if membership else None,
            layers=str(self._server.held),
            host=self._ready.host,
            port=self._ready.port,
            ring=membership.wired.ring if membership else "",
            home=membership.wired.home if membership else InstanceId(""),
            sessions=membership.core.sessions if membership else 0,
            passes=self._server.worker.counters.passes,
            faults=self._server.faults.total,
            experts=expert_facts(self._server.engine),
        )

    # -- the end -------------------------------------------------------------------------------

    async def quiesce(self) -> None:
        """Wait until the sessions of its ring have ended or moved elsewhere."""
        self._look_whether_idle()
        await self._idle.wait()

    def _look_whether_idle(self) -> None:
        membership = self._server.membership if self._server is not None else None
        if membership is None or not membership.core.sessions:
            self._idle.set()
        else:
            self._idle.clear()

    async def teardown(self) -> None:
        """Leave the ring, and free the memory."""
        if self._cores is not None:
            self._cores.leave()
        if self._ready is not None:
            self.emit(StageGone(stage=InstanceId(self.instance), node=self.ctx.node, model=self.model))
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
