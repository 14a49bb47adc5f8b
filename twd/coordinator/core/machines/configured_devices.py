"""Devices named in the settings. Device sizes come from the settings; free memory is what detection measured, where it
could."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from twd.coordinator.core.machines.device_names import GIVEN, device_name, usable
from twd.net.addresses import bare_host
from twd.settings.model import GpuConfig, PoolConfig
from twd.wire.base import NodeId
from twd.wire.node import GpuFacts, NodeFacts

GIB: Final = 1024**3


def all_given(nodes: Mapping[NodeId, NodeFacts], pool: PoolConfig, home: NodeId) -> Mapping[NodeId, NodeFacts]:
    """Return the machines with the devices that the settings name added to the detected ones."""
    return {node: with_given(facts, pool, home) for node, facts in nodes.items()}


def with_given(facts: NodeFacts, pool: PoolConfig, home: NodeId) -> NodeFacts:
    """Return one machine with its configured devices added; harmless when repeated."""
    named = () if facts.guest or given(facts) else _configured(facts, pool, home)
    if not named:
        return facts
    seen = _seen(usable(facts), named)
    gpus = [_as_facts(gpu, index, seen.get(index)) for index, gpu in enumerate(named)]
    return msgspec.structs.replace(facts, gpus=[*facts.gpus, *gpus])


def given(facts: NodeFacts) -> list[GpuFacts]:
    """Return a machine's configured devices; where there are any, its detected devices are not used."""
    return [gpu for gpu in facts.gpus if gpu.backend == GIVEN]


def doubts(facts: NodeFacts) -> list[str]:
    """Return a note for each device to which the settings give more memory than any detected device has."""
    largest = max((gpu.total for gpu in facts.gpus if gpu.backend != GIVEN), default=0)
    larger = [gpu for gpu in given(facts) if largest and gpu.total > largest * 1.05]
    return [_doubt(facts.node, gpu, largest) for gpu in larger]


def _doubt(node: NodeId, gpu: GpuFacts, largest: int) -> str:
    size = f"{gpu.total / GIB:g} GB"
    return (
        f"{node}: the settings give {gpu.name} {size}, but the largest found has {largest / GIB:.1f}; the settings win"
    )


def _configured(facts: NodeFacts, pool: PoolConfig, home: NodeId) -> tuple[GpuConfig, ...]:
    if facts.node == home:
        return pool.gpus
    if not pool.workers:
        return ()
    names = names_of(facts)
    return next((worker.gpus for worker in pool.workers if worker.host.lower() in names), ())


def names_of(facts: NodeFacts) -> set[str]:
    """Return the host names in the settings that mean this machine."""
    return {facts.node.lower(), facts.hostname.lower(), _host_of(facts.peer_url)}


def _host_of(url: str) -> str:
    found = re.match(r"https?://(\[[^]]*\]|[^:/]*)", url)
    return bare_host(found[1]).lower() if found else ""


def bytes_of(gpu: GpuConfig) -> int:
    """Return the bytes of memory that the settings give a device."""
    return int(gpu.vram_gb * GIB)


def _seen(found: Sequence[GpuFacts], named: Sequence[GpuConfig]) -> dict[int, GpuFacts]:
    """Match configured devices with detected ones, by index: the only one of that name, else the next in order; devices
    with memory of their own come first."""
    rest = sorted(found, key=lambda gpu: gpu.shared)
    seen: dict[int, GpuFacts] = {}
    for index, gpu in enumerate(named):
        called = [one for one in rest if gpu.name and gpu.name.casefold() in one.name.casefold()]
        if len(called) == 1:
            seen[index] = called[0]
            rest.remove(called[0])
    others = (index for index in range(len(named)) if index not in seen)
    return seen | dict(zip(others, rest, strict=False))


def _as_facts(gpu: GpuConfig, index: int, seen: GpuFacts | None) -> GpuFacts:
    """Return the facts of a configured device; one that was detected has the name that its machine's engine uses."""
    total = bytes_of(gpu)
    if seen is None:
        return GpuFacts(name=f"{gpu.name or 'GPU'} #{index}", backend=GIVEN, index=index, total=total, free=total)
    whole = max(total, seen.total)  # if only part of a GPU is configured, others use the rest
    free = max(0, min(total, whole - (seen.total - seen.free)))
    name = device_name(seen)
    return GpuFacts(name=name, backend=GIVEN, index=index, total=total, free=free, bandwidth=seen.bandwidth)
