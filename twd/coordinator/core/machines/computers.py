"""Agents that share a computer, as two homes on it do, or a container in its network: what they share counts once.

Those in networks of their own count as machines of their own: so one computer can play several.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

import msgspec

from twd.coordinator.core.machines.device_names import device_name
from twd.coordinator.core.placement import Key
from twd.wire.base import NodeId
from twd.wire.node import CPU, GpuFacts, NodeFacts


def counted_once(
    nodes: Mapping[NodeId, NodeFacts], used: Container[Key], homes: Collection[NodeId]
) -> dict[NodeId, NodeFacts]:
    """Machines with the memory and devices that none before them has told of.

    What is shared is theirs who use it (`used`), then theirs who serve models (`homes`), then the first one's by name.
    """
    found = dict(nodes)
    for group in shared(nodes.values()):
        _share_memory(found, sorted(group, key=lambda f: ((f.node, CPU) not in used, f.node not in homes, f.node)))
        _share_devices(found, sorted(group, key=lambda f: (f.node not in homes, f.node)), used)
    return found


def shared(nodes: Iterable[NodeFacts]) -> list[list[NodeFacts]]:
    """Machines that are one computer, where several are, by their names."""
    groups: dict[str, list[NodeFacts]] = defaultdict(list)
    for facts in sorted(nodes, key=lambda facts: facts.node):
        if facts.computer and not facts.guest:
            groups[facts.computer].append(facts)
    return [group for group in groups.values() if len(group) > 1]


def told_once(nodes: Iterable[NodeFacts]) -> Iterator[str]:
    """In words, which machines are one computer."""
    for group in shared(nodes):
        yield f"{' and '.join(facts.node for facts in group)} are one computer: what they share counts once"


def _share_memory(found: dict[NodeId, NodeFacts], group: list[NodeFacts]) -> None:
    """Containers have limits of their own, within what is free on the computer."""
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
    """Of a device among all of its computer: its place on the bus, else what is told of it."""
    return (gpu.place,) if gpu.place else (gpu.backend, gpu.name, gpu.index)
