"""The pool as the registry shows it, so that a command decides from the same data as a coordinator."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from twd.bus.base import LeaseEntry
from twd.coordinator.core.machines.computers import counted_once
from twd.coordinator.core.memory_ledger import free_for, promised
from twd.coordinator.core.observation import take_in
from twd.coordinator.core.state import ObservedState
from twd.coordinator.links import LinkTable
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts, read_node
from twd.wire.placement import read_placement


def nodes_of(entries: Iterable[LeaseEntry]) -> list[NodeFacts]:
    """Return the machines on the bus, as their agents describe them, and the agentless hosts."""
    return [facts for entry in entries if (facts := read_node(entry.value, entry.key)) is not None]


def observed_of(
    entries: Sequence[LeaseEntry], nodes: Iterable[NodeFacts], links: LinkTable, here: NodeId
) -> ObservedState:
    """Return these machines with what is decided, loaded and measured on them."""
    standing = [one for entry in entries if (one := read_placement(entry.value, entry.key)) is not None]
    observed = ObservedState({facts.node: facts for facts in nodes}, decided={one.place: one for one in standing})
    take_in(observed, links, entries)
    observed.links = links.known
    observed.nodes = counted_once(observed.nodes, promised(observed.decided), {*observed.homes.values(), here})
    return observed


def without(observed: ObservedState, models: Collection[str]) -> ObservedState:
    """Return the pool as it is after these models have ended: their memory is free, nothing is promised to them."""
    nodes = observed.nodes
    ended = {place: one for place, one in observed.decided.items() if one.model in models}
    for place, decision in ended.items():
        nodes = {facts.node: facts for facts in free_for(place, nodes, {place: decision}, observed.served)}
    kept = {place: one for place, one in observed.decided.items() if place not in ended}
    holders = {worker: place for worker, place in observed.held.items() if place not in ended}
    return replace(observed, nodes=nodes, decided=kept, held=holders)
