"""A pooled model over a ring: it uses the stages that the coordinator decided, in whatever process they run now."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from twd.bus.base import Bus
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.ring.wiring import of_other_files
from twd.settings.model import Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.pool_core import PoolAssembly
from twd.speculator.targets.pool_view import PoolView
from twd.speculator.targets.ring import RingSource, StageFinder
from twd.wire.base import Event, InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import NodeChanged
from twd.wire.placement import PlacementDecided, place_of
from twd.wire.ring import StageReady

LOST_MAX: Final = 64


class PlacedStages(StageFinder):
    """Finds the stages that the coordinator decided."""

    hears = (PlacementDecided, NodeChanged)

    def __init__(self, place: str, lease_s: float) -> None:
        self.place = place
        self._lease_s = lease_s
        self.over = PoolAssembly()
        """The assembly that was found last."""

    async def open(self, bus: Bus) -> None:
        """Open the registry."""
        registry = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self.place, self._lease_s)

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

    def concerns(self, event: Event) -> bool:
        """Whether it is a decision about this model, or news of one of its machines."""
        if isinstance(event, PlacementDecided):
            return event.place == self.place
        decided = self._view.placement
        if not isinstance(event, NodeChanged):
            return False
        return decided is None or any(piece.node == event.node for piece in (*decided.slices, *decided.spares))

    async def better(self, file_hash: str) -> str:
        """Returns where another decision puts the model, when all its stages are there."""
        now = await self._view.look()
        others = of_other_files(now.stages, file_hash)
        if not now.complete or others or now.signature == self.over.signature:
            return ""
        return ", ".join(member.name for member in now.members)


def placed_ring(ctx: ServiceContext, settings: Settings, name: str, replica: int = 1) -> SpeculatorService:
    """Returns the speculator of one configured model, or of one of its replicas, over the ring that the coordinator
    decides."""
    model = ModelId(name)
    finder = PlacedStages(place_of(model, replica), settings.coordinator.lease_s)
    return SpeculatorService(ctx, model, RingSource(settings, model, finder))
