"""A pooled model over a ring: its stages are those of the coordinator's decision, in whichever process they are now."""

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
from twd.wire.node import NodeChanged
from twd.wire.placement import PLACE_FACT, WAYS_FACT, PlacementDecided, Way, place_of
from twd.wire.ring import StageReady

LOST_MAX: Final = 64
CHANGE_S: Final = 10.0
"""A better placement waits so long for a moment without jobs."""


class PlacedStages:
    """Finds the stages that were decided."""

    def __init__(self, view: PoolView) -> None:
        self._view = view
        self.over = PoolAssembly()
        """What was found last."""

    async def stages(self, file_hash: str) -> Sequence[StageReady]:
        """All of them, or in words what is missing."""
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
        """Rather a spare of it; else its agent starts another one, or the coordinator decides anew."""
        lost = [*self._view.habit.lost, stage][-LOST_MAX:]
        self._view.habit = replace(self._view.habit, lost=lost)

    def reached(self, stages: Sequence[StageReady]) -> None:
        """One that was only slow to answer is not left for its spare, or the ring would be made twice."""
        there = {stage.stage for stage in stages}
        lost = [stage for stage in self._view.habit.lost if stage not in there]
        self._view.habit = replace(self._view.habit, lost=lost)


class PlacedRingSpeculator(RingSpeculator):
    """Goes with the coordinator's decisions."""

    reads = (*RingSpeculator.reads, PlacementDecided, NodeChanged)

    def __init__(self, ctx: ServiceContext, model: ModelId, settings: Settings, replica: int = 1) -> None:
        super().__init__(ctx, model, settings)
        self._place = place_of(model, replica)
        self._view: PoolView | None = None
        self._better_since: float | None = None
        self._stirred = asyncio.Event()
        """There may be better places."""

    async def setup(self) -> None:
        """Look for the decided stages, not for any."""
        registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self._view = PoolView(registry, self._place, self._settings.coordinator.lease_s)
        self._finder = self._placed = PlacedStages(self._view)
        await super().setup()

    async def start(self) -> None:
        """Start, and look for better places from now on."""
        await super().start()
        if not self.ended.is_set():
            self.tasks.start("look for better", self._keep_looking())

    def on_placement_decided(self, event: PlacementDecided) -> Effects:
        """Where the model goes now."""
        if event.place == self._place:
            self._stir()
        return None

    def on_node_changed(self, event: NodeChanged) -> Effects:
        """A machine of ours may have changed."""
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

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """Besides, which replica it is, and how far its stages are."""
        told = {**super().facts(), PLACE_FACT: self._place}
        if self._home is None:
            return told
        ways = [
            Way(node=stage.node, rtt_ms=hop.rtt_min_ms, bandwidth=hop.bandwidth)
            for stage, hop in zip(self._stages, self._home.hops(), strict=False)
        ]
        return {**told, WAYS_FACT: msgspec.json.encode(ways).decode()}

    async def _keep_looking(self) -> None:
        while True:
            self._stirred.clear()
            await self._look_for_better()
            await heard(self._stirred, LOOK_S)

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
    """The speculator of one configured model, or of one of its replicas, over the ring that the coordinator decides."""
    return PlacedRingSpeculator(ctx, ModelId(name), settings, replica)
