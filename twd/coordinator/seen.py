"""What the registry shows a coordinator: machines that have settled, and processes that serve models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from twd.bus.base import LeaseEntry
from twd.kit.overseer import read_lease
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts
from twd.wire.service import ServiceLease

SETTLE_S: Final = 0.7
"""Machines that join one after the other are planned with together."""


@dataclass
class Joined:
    """When machines came."""

    since: dict[NodeId, float] = field(default_factory=dict)

    def settled(
        self, found: Sequence[NodeFacts], known: Mapping[NodeId, NodeFacts], now: float
    ) -> dict[NodeId, NodeFacts]:
        """Machines to plan with. One whose agent has just come back counts as it was known before."""
        seen = [(facts, known.get(facts.node)) for facts in found]
        now_here = {
            facts.node: _as_before(facts, before) if before is not None and facts.looking else facts
            for facts, before in seen
            if before is not None or not facts.looking
        }
        self.since = {node: self.since.get(node, now) for node in now_here}
        if any(node not in known and now - self.since[node] < SETTLE_S for node in now_here):
            return {node: facts for node, facts in now_here.items() if node in known}
        return now_here


def _as_before(now: NodeFacts, before: NodeFacts) -> NodeFacts:
    return msgspec.structs.replace(before, instance=now.instance, pid=now.pid, processes=now.processes)


def speculators(entries: Sequence[LeaseEntry]) -> list[ServiceLease]:
    """Processes that serve a model, or will; the oldest last, so that of several replicas it counts as the home."""
    leases = [read_lease(entry.value) for entry in entries if entry.key.startswith("speculator.")]
    return sorted((lease for lease in leases if lease is not None), key=lambda lease: -lease.started_ms)
