"""What the registry shows a coordinator: machines that have settled, and processes that serve models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from twd.bus.base import LeaseEntry
from twd.coordinator.core.machines.agentless_hosts import held
from twd.coordinator.core.measured import paces_of
from twd.coordinator.core.state import ObservedState
from twd.coordinator.core.stores import stores_of
from twd.coordinator.links import LinkTable
from twd.wire.base import NodeId
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import StageFacts
from twd.wire.node import NodeFacts
from twd.wire.placement import GuestUse, Way
from twd.wire.service import ServiceLease, read_lease, told_by

SETTLE_S: Final = 0.7
"""Seconds to wait for more machines when none is known yet: machines that start together are planned together."""
JOIN_S: Final = 0.2
"""Seconds to wait for more machines when some are known: a decision made too early costs a needless process."""
LOOKING_S: Final = 8.0
"""Seconds to wait for a new machine that still detects its devices, before the others that joined are planned with."""
BACK_S: Final = 3.0
"""Seconds after a loss of the bus in which a known machine may still be about to connect again: it is planned with. A
broker that was restarted has an empty registry."""


@dataclass
class JoinTimes:
    """When machines joined."""

    since: dict[NodeId, float] = field(default_factory=dict)
    until: float | None = None
    """When the waiting for machines that joined ends; None: none are waited for."""
    back_at: float = float("-inf")
    """When the bus was last back after a loss."""

    def settled(
        self, found: Sequence[NodeFacts], known: Mapping[NodeId, NodeFacts], now: float
    ) -> dict[NodeId, NodeFacts]:
        """Return the machines to plan with. One whose agent has just restarted keeps its earlier facts."""
        self.since = {facts.node: self.since.get(facts.node, now) for facts in found}
        new = [facts for facts in found if facts.node not in known]
        patience = {True: LOOKING_S, False: JOIN_S if known else SETTLE_S}
        self.until = max((self.since[facts.node] + patience[facts.looking] for facts in new), default=None)
        if self.until is not None and self.until <= now:
            self.until = None
        joined = [facts for facts in new if not facts.looking] if self.until is None else []
        missing = known if now < self.back_at + BACK_S else {}
        return {
            **missing,
            **{facts.node: _as_before(facts, known[facts.node]) for facts in found if facts.node in known},
            **{facts.node: facts for facts in joined},
        }


def _as_before(now: NodeFacts, before: NodeFacts) -> NodeFacts:
    """Return the earlier facts of a machine whose agent has just restarted, until that has detected its devices."""
    if not now.looking:
        return now
    return msgspec.structs.replace(before, instance=now.instance, pid=now.pid, processes=now.processes)


def take_in(observed: ObservedState, links: LinkTable, entries: Sequence[LeaseEntry]) -> dict[str, list[GuestUse]]:
    """Store what leases say of models served, workers held and speeds measured; return the use of agentless hosts, by
    place."""
    serving, stages = speculators(entries), stage_leases(entries)
    observed.served = {facts.served for _, facts in serving if facts.ready}
    observed.homes = {facts.served: lease.node for lease, facts in serving}
    uses = {facts.served: facts.guests for _, facts in serving}
    observed.held = held(uses)
    for _, facts in serving:
        links.learn(facts.ways)
    links.learn_between(ways_between(stages))
    measured = [facts.slice for _, facts in stages if facts.slice is not None]
    observed.paces = paces_of(measured, observed.decided.values())
    observed.stores = stores_of(_leases(entries, "swarm."))
    return uses


def speculators(entries: Sequence[LeaseEntry]) -> list[tuple[ServiceLease, SpeculatorFacts]]:
    """Return the processes that serve a model, or will; the oldest last, so that of several it counts as the home."""
    ordered = sorted(_leases(entries, "speculator."), key=lambda lease: -lease.started_ms)
    return told_by(ordered, SpeculatorFacts)


def stage_leases(entries: Sequence[LeaseEntry]) -> list[tuple[ServiceLease, StageFacts]]:
    """Processes that hold slices."""
    return told_by(_leases(entries, "stage."), StageFacts)


def _leases(entries: Sequence[LeaseEntry], prefix: str) -> Iterator[ServiceLease]:
    read = (read_lease(entry.value, entry.key) for entry in entries if entry.key.startswith(prefix))
    return (lease for lease in read if lease is not None)


def ways_between(stages: Sequence[tuple[ServiceLease, StageFacts]]) -> list[tuple[NodeId, Way]]:
    """Return the links between machines that stages measured along their rings."""
    nodes = {lease.instance: lease.node for lease, _ in stages}
    told = ((lease.node, facts.next) for lease, facts in stages if facts.next is not None)
    found = [(node, way, nodes[way.to]) for node, way in told if way.to in nodes]
    return [
        (node, Way(node=far, rtt_ms=way.rtt_ms, bandwidth=way.bandwidth)) for node, way, far in found if far != node
    ]
