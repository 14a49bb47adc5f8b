"""What the registry shows a coordinator: machines that have settled, and processes that serve models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from twd.bus.base import LeaseEntry
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts
from twd.wire.placement import PLACE_FACT, GuestUse, Way, read_guests
from twd.wire.ring import StageReady, read_stage, read_stage_way
from twd.wire.service import ServiceLease, read_lease

SETTLE_S: Final = 0.7
"""Machines that come one after the other, as at the start of a house, are planned with together."""
JOIN_S: Final = 0.2
"""The same for those that join others: what is decided too early for them costs a process that is not needed."""
LOOKING_S: Final = 8.0
"""So long a machine that looks round yet is waited for, before others that joined are planned with."""


@dataclass
class Joined:
    """When machines came."""

    since: dict[NodeId, float] = field(default_factory=dict)
    until: float | None = None
    """When those that joined will have been waited for long enough; None: nobody is waited for."""

    def settled(
        self, found: Sequence[NodeFacts], known: Mapping[NodeId, NodeFacts], now: float
    ) -> dict[NodeId, NodeFacts]:
        """Machines to plan with. One whose agent has just come back counts as it was known before."""
        self.since = {facts.node: self.since.get(facts.node, now) for facts in found}
        new = [facts for facts in found if facts.node not in known]
        patience = {True: LOOKING_S, False: JOIN_S if known else SETTLE_S}
        self.until = max((self.since[facts.node] + patience[facts.looking] for facts in new), default=None)
        if self.until is not None and self.until <= now:
            self.until = None
        joined = [facts for facts in new if not facts.looking] if self.until is None else []
        return {
            **{facts.node: _as_before(facts, known[facts.node]) for facts in found if facts.node in known},
            **{facts.node: facts for facts in joined},
        }


def _as_before(now: NodeFacts, before: NodeFacts) -> NodeFacts:
    """What is known of a machine whose agent has just come back, until that has looked round."""
    if not now.looking:
        return now
    return msgspec.structs.replace(before, instance=now.instance, pid=now.pid, processes=now.processes)


def speculators(entries: Sequence[LeaseEntry]) -> list[ServiceLease]:
    """Processes that serve a model, or will; the oldest last, so that of several it counts as the home."""
    leases = [read_lease(entry.value) for entry in entries if entry.key.startswith("speculator.")]
    return sorted((lease for lease in leases if lease is not None), key=lambda lease: -lease.started_ms)


def place_served(lease: ServiceLease) -> str:
    """The model, or the replica of one, that a process serves."""
    return str(lease.facts.get(PLACE_FACT) or lease.facts.get("model"))


def guest_uses(serving: Iterable[ServiceLease]) -> dict[str, list[GuestUse]]:
    """What speculators tell of guests' workers, by place."""
    return {place_served(lease): read_guests(lease.facts) for lease in serving}


def stages(entries: Sequence[LeaseEntry]) -> list[StageReady]:
    """Slices that are in memory, with what they measured."""
    leases = [read_lease(entry.value) for entry in entries if entry.key.startswith("stage.")]
    return [stage for lease in leases if lease is not None and (stage := read_stage(lease.facts)) is not None]


def ways_between(entries: Sequence[LeaseEntry]) -> list[tuple[NodeId, Way]]:
    """The ways from machine to machine that stages measured along their rings."""
    leases = [lease for entry in entries if entry.key.startswith("stage.") and (lease := read_lease(entry.value))]
    nodes = {lease.instance: lease.node for lease in leases}
    told = ((lease.node, way) for lease in leases if (way := read_stage_way(lease.facts)) is not None)
    found = [(node, way, nodes[way.to]) for node, way in told if way.to in nodes]
    return [
        (node, Way(node=far, rtt_ms=way.rtt_ms, bandwidth=way.bandwidth)) for node, way, far in found if far != node
    ]
