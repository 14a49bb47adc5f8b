"""Agents that run on the same computer, with two state folders or in a container: shared memory and devices count once.

Agents marked as separate machines are counted separately: so one computer can simulate several.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

import msgspec

from twd.coordinator.core.machines.device_names import device_name
from twd.coordinator.core.placement.values import Key
from twd.wire.base import NodeId
from twd.wire.node import CPU, GpuFacts, NodeFacts


def counted_once(
    nodes: Mapping[NodeId, NodeFacts], used: Container[Key], homes: Collection[NodeId]
) -> dict[NodeId, NodeFacts]:
    """Return the machines with shared memory and devices counted for one of them only.

    Shared resources go first to machines that use them (`used`), then to those that serve models (`homes`), then by
    name.
    """
    found = dict(nodes)
    for group in shared(nodes.values()):
        _share_memory(found, sorted(group, key=lambda f: ((f.node, CPU) not in used, f.node not in homes, f.node)))
        _share_devices(found, sorted(group, key=lambda f: (f.node not in homes, f.node)), used)
    return found


def shared(nodes: Iterable[NodeFacts]) -> list[list[NodeFacts]]:
    """Return groups of machines that are one computer, sorted by name; single machines are left out."""
    groups: dict[str, list[NodeFacts]] = defaultdict(list)
    for facts in sorted(nodes, key=lambda facts: facts.node):
        if facts.computer and not facts.guest:
            groups[facts.computer].append(facts)
    return [group for group in groups.values() if len(group) > 1]


def told_once(nodes: Iterable[NodeFacts]) -> Iterator[str]:
    """Yield a note for each group of machines that are one computer."""
    for group in shared(nodes):
        yield f"{' and '.join(facts.node for facts in group)} are one computer: what they share counts once"


def _share_memory(found: dict[NodeId, NodeFacts], group: list[NodeFacts]) -> None:
    """Share the free memory of a computer out; a container also has a limit of its own within it."""
    left = min(facts.memory.host_available or facts.memory.available for facts in group)
    for facts in group:
        free = min(facts.memory.available, left)
        left -= free
        memory = msgspec.structs.replace(facts.memory, available=free)
        found[facts.node] = msgspec.structs.replace(found[facts.node], memory=memory)


def _share_devices(found: dict[NodeId, NodeFacts], group: list[NodeFacts], used: Container[Key]) -> None:
    owners: dict[tuple[object, ...], NodeId] = {}
    for wanted in (True, False):
        for facts in group:
            for gpu in facts.gpus:
                if wanted is ((facts.node, device_name(gpu)) in used):
                    owners.setdefault(_identity(gpu), facts.node)
    for facts in group:
        gpus = [gpu for gpu in facts.gpus if owners[_identity(gpu)] == facts.node]
        found[facts.node] = msgspec.structs.replace(found[facts.node], gpus=gpus)


def _identity(gpu: GpuFacts) -> tuple[object, ...]:
    """Return what identifies a device within its computer: its place on the bus, else backend, name and index."""
    return (gpu.place,) if gpu.place else (gpu.backend, gpu.name, gpu.index)
