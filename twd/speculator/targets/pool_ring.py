"""A pooled model over a ring: it uses the stages that the coordinator decided, in whatever process they run now."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from twd.bus.base import BusError
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, ServiceContext
from twd.kit.tasks import heard
from twd.ring.wiring import of_other_files
from twd.settings.model import Settings
from twd.speculator.targets.pool_core import PoolAssembly
from twd.speculator.targets.pool_view import PoolView
from twd.speculator.targets.ring import LOOK_S, RingSpeculator
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import NodeChanged
from twd.wire.placement import PlacementDecided, Way, place_of
from twd.wire.ring import StageReady

LOST_MAX: Final = 64
CHANGE_S: Final = 10.0
"""A better placement waits at most this many seconds for a moment without jobs."""


class PlacedStages:
    """Finds the stages that the coordinator decided."""

    def __init__(self, view: PoolView) -> None:
        self._view = view
        self.over = PoolAssembly()
        """The assembly that was found last."""

    async def stages(self, file_hash: str) -> Sequence[StageReady]:
        """Returns all stages in ring order; raises TwdError that says what is missing."""
        now = await self._view.look()
        if not now.complete:
            raise TwdError(FailureCode.NOBODY_HOME, "; ".join(now.waits_for))
        if others := of_other_files(now.stages, file_hash):
            for stage in others:
                self.lost(stage.stage, "of another file")
            where = ", ".join(f"{stage.node} ({stage.file_hash[:8]})" for stage in others)
            text = f"another file than the one here ({file_hash[:8]}) was cut on {where}; copy the model anew there"
            raise TwdError(FailureCode.BAD_REQUEST, text)
        self.over = now
        held = {(member.slice.node, member.slice.process) for member in now.members}
        self._view.habit = replace(self._view.habit, held=held)
        return now.stages

    def lost(self, stage: InstanceId, reason: str) -> None:
        """Remember a lost stage: a spare is preferred from now on. Without one, its agent starts another or the
        coordinator decides again."""
        lost = [*self._view.habit.lost, stage][-LOST_MAX:]
        self._view.habit = replace(self._view.habit, lost=lost)

    def reached(self, stages: Sequence[StageReady]) -> None:
        """Forget that these stages were lost. Otherwise a stage that was only slow would be replaced by its spare, and
        the ring made twice."""
        there = {stage.stage for stage in stages}
        lost = [stage for stage in self._view.habit.lost if stage not in there]
        self._view.habit = replace(self._view.habit, lost=lost)


class PlacedRingSpeculator(RingSpeculator):
    """A ring speculator that follows the coordinator's decisions."""

    reads = (*RingSpeculator.reads, PlacementDecided, NodeChanged)

    def __init__(self, ctx: ServiceContext, model: ModelId, settings: Settings, replica: int = 1) -> None:
        super().__init__(ctx, model, settings)
        self._place = place_of(model, replica)
        self._view: PoolView | None = None
        self._better_since: float | None = None
        self._stirred = asyncio.Event()
        """Set when there may be a better placement."""

    async def setup(self) -> None:
        """Use the decided stages, not any stages."""
        registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self._place, self._settings.coordinator.lease_s)
        self._finder = self._placed = PlacedStages(self._view)
        await super().setup()

    async def start(self) -> None:
        """Start the service and the task that looks for better placements."""
        await super().start()
        if not self.ended.is_set():
            self.tasks.start("look for better", self._keep_looking())

    def on_placement_decided(self, event: PlacementDecided) -> Effects:
        """Take the coordinator's decision for this model."""
        if event.place == self._place:
            self._stir()
        return None

    def on_node_changed(self, event: NodeChanged) -> Effects:
        """Look again, because a machine of this pool may have changed."""
        decided = self._view.placement if self._view is not None else None
        if decided is None or any(piece.node == event.node for piece in (*decided.slices, *decided.spares)):
            self._stir()
        return None

    def _stir(self) -> None:
        super()._stir()
        self._stirred.set()

    def _look_idle(self) -> None:
        super()._look_idle()
        if self._better_since is not None and not self._owners:
            self._stirred.set()

    def facts(self) -> SpeculatorFacts:
        """Returns the facts of any ring, and which replica it is and the links to its stages."""
        told = msgspec.structs.replace(super().facts(), place=self._place)
        if self._home is None:
            return told
        ways = [
            Way(node=stage.node, rtt_ms=hop.rtt_min_ms, bandwidth=hop.bandwidth)
            for stage, hop in zip(self._stages, self._home.hops(), strict=False)
        ]
        return msgspec.structs.replace(told, ways=ways)

    async def _keep_looking(self) -> None:
        while True:
            self._stirred.clear()
            await self._look_for_better()
            await heard(self._stirred, LOOK_S)

    async def _look_for_better(self) -> None:
        """Follow another decision when its stages are there, and no job runs or it has waited long enough."""
        assert self._view is not None
        if self._home is None or self._lost_at is not None:
            return
        try:
            now = await self._view.look()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        others = of_other_files(now.stages, self._file_hash)
        if not now.complete or others or now.signature == self._placed.over.signature:
            self._better_since = None
            return
        at = self.clock.now()
        self._better_since = at if self._better_since is None else self._better_since
        if not self._owners or at - self._better_since > CHANGE_S:
            self._better_since = None
            where = ", ".join(member.name for member in now.members)
            self._home.close(TwdError(FailureCode.WORKER_LOST, f"the model goes elsewhere: {where}"))


def placed_ring(ctx: ServiceContext, settings: Settings, name: str, replica: int = 1) -> PlacedRingSpeculator:
    """Returns the speculator of one configured model, or of one of its replicas, over the ring that the coordinator
    decides."""
    return PlacedRingSpeculator(ctx, ModelId(name), settings, replica)
