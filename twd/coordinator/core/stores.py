"""What machines keep of models besides whole files, who may fetch layers that it lacks, and from whom."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from twd.wire.base import NodeId
from twd.wire.leases.machine import SwarmFacts
from twd.wire.node import ModelFile, NodeFacts
from twd.wire.placement import Slice
from twd.wire.service import ServiceLease, told_by
from twd.wire.swarm import Fetching, LayerRange, SharedFile, SliceHere, Store


@dataclass(frozen=True, slots=True)
class SeenStore:
    """What the swarm service of a machine tells in its lease."""

    store: Store = field(default_factory=Store)
    files: tuple[SharedFile, ...] = ()

    def shares(self, hash_: str) -> bool:
        """Whether it gives away the whole file with this quick hash."""
        return any(one.hash == hash_ and one.have == one.units for one in self.files)

    def fetches(self, hash_: str, layers: LayerRange) -> Fetching | None:
        """Return its job for these layers; None where it has none."""
        jobs = (one for one in self.store.fetching if (one.hash, one.layers) == (hash_, layers))
        return next(jobs, None)


Stores = Mapping[NodeId, SeenStore]


def stores_of(leases: Iterable[ServiceLease]) -> dict[NodeId, SeenStore]:
    """Return what each machine tells, from the leases of swarm services."""
    return {lease.node: SeenStore(facts.store, tuple(facts.files)) for lease, facts in told_by(leases, SwarmFacts)}


def layers_of(piece: Slice) -> LayerRange:
    """Return the layers of a slice, as machines are asked for them."""
    return LayerRange(first=piece.first, end=piece.end, head=piece.head)


def has_file(facts: NodeFacts, hash_: str) -> bool:
    """Whether a machine has the whole model with this hash."""
    return any(known.hash == hash_ for known in facts.models)


def has_layers(facts: NodeFacts, seen: SeenStore | None, hash_: str, layers: LayerRange) -> bool:
    """Whether a stage can start there: from the whole model, or from a slice that came without it."""
    if has_file(facts, hash_):
        return True
    return seen is not None and SliceHere(hash=hash_, layers=layers) in seen.store.slices


def sources_for(facts: NodeFacts, nodes: Iterable[NodeFacts], stores: Stores, hash_: str) -> list[NodeId]:
    """Return the machines that can give a model to another one."""
    return [
        other.node
        for other in nodes
        if other.node != facts.node
        and not other.guest
        and (other.lends or other.machine == facts.machine)
        and (has_file(other, hash_) or (other.node in stores and stores[other.node].shares(hash_)))
    ]


def room_of(facts: NodeFacts, seen: SeenStore | None) -> int:
    """Return the bytes of layers that a machine may take; half of its disk's free bytes where its swarm service does
    not run, as a slice is cut beside what came."""
    if seen is not None:
        return seen.store.room_bytes
    return facts.disks[0].free // 2 if facts.disks else 0


def fetchers(nodes: Iterable[NodeFacts], stores: Stores, file: ModelFile) -> dict[NodeId, int]:
    """Return the machines without a model's file that may fetch its layers, with the bytes that they may take."""
    if not file.hash:
        return {}
    seen = list(nodes)
    return {
        facts.node: room
        for facts in seen
        if facts.accepts and not facts.guest and not has_file(facts, file.hash)
        if (room := room_of(facts, stores.get(facts.node))) > 0 and sources_for(facts, seen, stores, file.hash)
    }
