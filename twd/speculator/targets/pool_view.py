"""The registry's view of one pooled model or replica: its placement, machines, processes and stages."""

from collections.abc import Iterable
from typing import Final

from twd.bus.base import LeaseEntry, Leases
from twd.speculator.targets.pool_core import PlacementHistory, PoolAssembly, assemble
from twd.wire.base import NodeId
from twd.wire.leases.workers import StageFacts
from twd.wire.node import GUEST_KEYS, NodeFacts, read_node
from twd.wire.placement import PlacementDecided, placement_key, read_placement
from twd.wire.ring import StageReady
from twd.wire.service import read_lease, told_by

AGENTS: Final = "agent."
STAGES: Final = "stage."


class PoolView:
    """Reads the registry and keeps the last placement, which stays valid while no coordinator renews it."""

    def __init__(self, registry: Leases, place: str, lease_s: float) -> None:
        self._registry = registry
        self._place = place
        self._lease_s = lease_s
        self.placement: PlacementDecided | None = None
        self.habit = PlacementHistory()

    async def look(self) -> PoolAssembly:
        """Returns the current assembly; raises BusError while the registry is away."""
        entries = await self._registry.entries()
        key = placement_key(self._place)
        kept = next((read_placement(entry.value, entry.key) for entry in entries if entry.key == key), None)
        self.placement = kept or self.placement
        return assemble(self.placement, _nodes(entries, self._lease_s), _stages(entries), self.habit)


def _nodes(entries: Iterable[LeaseEntry], lease_s: float) -> dict[NodeId, NodeFacts]:
    """Returns the machines whose agents reported lately, and all agentless hosts, whatever the age of their entry."""
    heard = [entry for entry in entries if entry.key.startswith(AGENTS) and entry.age_s <= lease_s]
    guests = [entry for entry in entries if entry.key.startswith(GUEST_KEYS)]
    found = [facts for entry in (*guests, *heard) if (facts := read_node(entry.value, entry.key)) is not None]
    return {facts.node: facts for facts in found}


def _stages(entries: Iterable[LeaseEntry]) -> dict[tuple[NodeId, int], StageReady]:
    """Returns the stages that have loaded their slices, by machine and process."""
    leases = [read_lease(entry.value, entry.key) for entry in entries if entry.key.startswith(STAGES)]
    told = told_by(leases, StageFacts)
    return {(lease.node, lease.pid): facts.slice for lease, facts in told if facts.slice is not None}
