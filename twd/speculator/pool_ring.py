"""A pooled model over a ring: its stages are those of the coordinator's decision, in whichever process they are now."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from twd.bus.base import BusError
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Surroundings
from twd.kit.settings import Settings
from twd.kit.tasks import every
from twd.speculator.pool_core import Assembly
from twd.speculator.pool_view import PoolView
from twd.speculator.ring import RingSpeculator
from twd.wire.base import InstanceId, ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.ring import StageReady

LOOK_S: Final = 0.5
LOST_MAX: Final = 64
CHANGE_S: Final = 10.0
"""A better placement waits so long for a moment without jobs."""


class PlacedStages:
    """Finds the stages that were decided."""

    def __init__(self, view: PoolView) -> None:
        self._view = view
        self.over = Assembly()
        """What was found last."""

    async def stages(self) -> Sequence[StageReady]:
        """All of them, or in words what is missing."""
        now = await self._view.look()
        if not now.complete:
            raise TwdError(FailureCode.NOBODY_HOME, "; ".join(now.waits_for))
        self.over = now
        held = {(member.slice.node, member.slice.process) for member in now.members}
        self._view.habit = replace(self._view.habit, held=held)
        return now.stages

    def lost(self, stage: InstanceId, reason: str) -> None:
        """Rather a spare of it; else its agent starts another one, or the coordinator decides anew."""
        lost = [*self._view.habit.lost, stage][-LOST_MAX:]
        self._view.habit = replace(self._view.habit, lost=lost)


class PlacedRing(RingSpeculator):
    """Goes with the coordinator's decisions."""

    def __init__(self, ground: Surroundings, model: ModelId, settings: Settings) -> None:
        super().__init__(ground, model, settings)
        self._view: PoolView | None = None
        self._better_since: float | None = None

    async def setup(self) -> None:
        """Look for the decided stages, not for any."""
        registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self.model, self._settings.coordinator.lease_s)
        self._finder = self._placed = PlacedStages(self._view)
        await super().setup()

    async def start(self) -> None:
        """Start, and look for better places from now on."""
        await super().start()
        if not self.ended.is_set():
            self.tasks.start("look for better", every(LOOK_S, self._look_for_better))

    async def _look_for_better(self) -> None:
        """Another decision is followed when its stages are there, and nobody waits or it has waited long enough."""
        assert self._view is not None
        if self._home is None or self._lost_at is not None:
            return
        try:
            now = await self._view.look()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        if not now.complete or now.signature == self._placed.over.signature:
            self._better_since = None
            return
        at = self.clock.now()
        self._better_since = at if self._better_since is None else self._better_since
        if self._idle.is_set() or at - self._better_since > CHANGE_S:
            self._better_since = None
            where = ", ".join(member.name for member in now.members)
            self._home.close(TwdError(FailureCode.WORKER_LOST, f"the model goes elsewhere: {where}"))


def placed_ring(ground: Surroundings, settings: Settings, name: str) -> PlacedRing:
    """The speculator of one configured model over the ring that the coordinator decides."""
    return PlacedRing(ground, ModelId(name), settings)
