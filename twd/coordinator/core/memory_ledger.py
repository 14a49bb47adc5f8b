"""Who uses which memory: a machine reports what is free now, but not for whom the rest is meant.

Memory of a model's own processes may be planned again for that model; memory promised to other models, even if not
taken yet, may not.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from twd.coordinator.core.machines.device_names import device_name
from twd.coordinator.core.placement.values import Key, PlacementDevice
from twd.wire.base import NodeId
from twd.wire.node import CPU, READY, NodeFacts
from twd.wire.placement import PlacementDecided, Slice

SPARE = 512 * 1024**2


def free_for(
    model: str,
    nodes: Mapping[NodeId, NodeFacts],
    decided: Mapping[str, PlacementDecided],
    served: Collection[str],
) -> list[NodeFacts]:
    """Return the machines with the memory that one model may use; `served` are the models that are loaded."""
    changes: dict[Key, int] = {}
    for name, decision in decided.items():
        for piece in (*decision.slices, *decision.spares):
            holds = _holds(piece, nodes, name in served)
            if holds == (name == model):  # its own memory is free for it; others' promises are not
                sign = 1 if name == model else -1
                key = (piece.node, piece.device)
                changes[key] = changes.get(key, 0) + sign * total(piece)
    promises = promised({name: decision for name, decision in decided.items() if name != model})
    return [_changed(facts, changes, promises) for facts in nodes.values()]


def promised(decided: Mapping[str, PlacementDecided]) -> dict[Key, int]:
    """Return the bytes of each device that models and their spares take, or will take."""
    found: dict[Key, int] = {}
    for piece in (one for decision in decided.values() for one in (*decision.slices, *decision.spares)):
        key = (piece.node, piece.device)
        found[key] = found.get(key, 0) + total(piece)
    return found


def total(piece: Slice) -> int:
    """Return the bytes that a slice takes."""
    return piece.weight_bytes + piece.kv_bytes + piece.other_bytes


def _holds(piece: Slice, nodes: Mapping[NodeId, NodeFacts], served: bool) -> bool:
    """Whether a slice's memory is already in use and so not in the reported free memory."""
    facts = nodes.get(piece.node)
    if facts is not None and facts.guest:  # its free memory was reported before anything was loaded
        return False
    return is_ready(piece, nodes) if piece.process else served


def is_ready(piece: Slice, nodes: Mapping[NodeId, NodeFacts]) -> bool:
    """Whether the process of a slice has it in memory."""
    facts = nodes.get(piece.node)
    return facts is not None and any(p.process == piece.process and p.state == READY for p in facts.processes)


def is_there(piece: Slice, nodes: Mapping[NodeId, NodeFacts]) -> bool:
    """Whether the process of a slice has been started."""
    facts = nodes.get(piece.node)
    return facts is not None and any(known.process == piece.process for known in facts.processes)


def _changed(facts: NodeFacts, changes: Mapping[Key, int], promises: Mapping[Key, int]) -> NodeFacts:
    """Return a machine with corrected free memory. Mapped weights count as free, so promises to others limit it,
    too."""

    def corrected(device: str, free: int, whole: int) -> int:
        key = (facts.node, device)
        return max(0, min(whole - promises.get(key, 0), free + changes.get(key, 0)))

    if all(node != facts.node for node, _ in (*changes, *promises)):
        return facts
    memory = facts.memory
    gpus = [(gpu, corrected(device_name(gpu), gpu.free, gpu.total)) for gpu in facts.gpus]
    return msgspec.structs.replace(
        facts,
        memory=msgspec.structs.replace(memory, available=corrected(CPU, memory.available, memory.total)),
        gpus=[msgspec.structs.replace(gpu, free=free) for gpu, free in gpus],
    )


def left_on(
    devices: Sequence[PlacementDevice], nodes: Mapping[NodeId, NodeFacts], decided: Mapping[str, PlacementDecided]
) -> dict[Key, int]:
    """Return the bytes that devices can take besides all promises.

    Mapped weights count as free memory, so a device's total memory minus all promises limits it, too.
    """
    most: dict[Key, int] = {device.key: device.capacity for device in devices}  # of those that the settings name
    for facts in nodes.values():
        most[facts.node, CPU] = facts.memory.total
        most |= {(facts.node, device_name(gpu)): gpu.total for gpu in facts.gpus}
    taken = promised(decided)
    return {device.key: min(device.capacity, most[device.key] - taken.get(device.key, 0)) for device in devices}


def overdrawn(nodes: Mapping[NodeId, NodeFacts], decided: Mapping[str, PlacementDecided]) -> set[Key]:
    """Return the devices with less free memory now than the slices need that are not started yet."""
    due: dict[Key, int] = {}
    for piece in (one for decision in decided.values() for one in (*decision.slices, *decision.spares)):
        if piece.process and not is_there(piece, nodes):
            key = (piece.node, piece.device)
            due[key] = due.get(key, 0) + total(piece)
    free: dict[Key, int] = {
        (facts.node, device): count
        for facts in nodes.values()
        for device, count in ((CPU, facts.memory.available), *((device_name(gpu), gpu.free) for gpu in facts.gpus))
    }
    return {key for key, count in due.items() if count > free.get(key, count)}


def room(facts: NodeFacts, devices: Collection[str]) -> int:
    """Return the free bytes of the fullest of some devices of a machine, less a reserve."""
    free = {CPU: facts.memory.available, **{device_name(gpu): gpu.free for gpu in facts.gpus}}
    return min((free.get(device, 0) - SPARE for device in devices), default=0)
