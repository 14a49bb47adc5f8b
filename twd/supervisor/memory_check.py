"""Whether a model's file can be used, how much memory it needs, and how much this machine or the pool has."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import psutil

from twd.coordinator.core.machines.configured_devices import all_given
from twd.coordinator.core.machines.device_names import usable
from twd.coordinator.core.model_placement import decide
from twd.coordinator.core.state import ObservedState, WantedState
from twd.coordinator.wanted import wanted_replicas
from twd.engine.host_memory.limits import available_bytes
from twd.gguf_tools.inspect import inspect
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.supervisor.model_changes import MemoryRoom, ReplacementOrder
from twd.supervisor.model_weights import weights_of
from twd.supervisor.pool_registry import without
from twd.wire.base import InstanceId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import NodeFacts
from twd.wire.placement import PlacementDecided

REFUSED_BYTES: Final = 1
"""The missing bytes that a placement reports when it fails for another reason than memory."""


def check_file(settings: Settings, name: str) -> None:
    """Raise where a model's file is missing or is no model; a model of another server has no file here, and passes."""
    model = settings.models.get(name)
    if model is None:
        return
    path = path_of(model.path)
    if not path.is_file():
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"there is no file {path} on this machine", "model")
    inspect(path)


def room_for(
    settings: Settings, name: str, pids: Sequence[int], node: NodeId, machines: Sequence[NodeFacts]
) -> MemoryRoom:
    """Return the memory that a model needs and that this machine has; ending the processes `pids` would free more."""
    model = settings.models.get(name)
    machine = next((facts for facts in machines if facts.node == node), None)
    needed = weights_of(name, model).needed if model is not None else 0
    devices = _device_bytes(machine) if model is not None and model.gpu_layers != 0 else 0
    if _in_turns(settings):
        return MemoryRoom(needed, 0, certain=False)
    if devices:
        return MemoryRoom(needed, devices, certain=False)
    return MemoryRoom(needed, available_bytes(), sum(_resident(pid) for pid in pids))


def pool_manner(
    settings: Settings, name: str, served: Collection[str], goes: Collection[str], node: NodeId, observed: ObservedState
) -> ReplacementOrder:
    """Return whether a model fits into the pool beside those in `served`, or only after those in `goes` have ended.

    Raises where not all of its replicas fit either way; with an empty `goes`, the second question is whether it fits
    alone.
    """
    wanted = WantedState(node, InstanceId("life"), settings.pool, wanted_replicas(settings, name))
    observed = replace(observed, nodes=all_given(observed.nodes, settings.pool, node))
    pool = without(observed, settings.models.keys() - {*served, name})
    if not _in_turns(settings) and _without_place(wanted, pool) is None:
        return ReplacementOrder.BESIDE
    refused = _without_place(wanted, without(pool, goes or {*served} - {name}))
    if refused is None:
        return ReplacementOrder.AFTER
    which = f"{name}, replica {refused.replica} of {len(wanted.models)}" if len(wanted.models) > 1 else name
    text = "; ".join([f"the pool has no place for {which}", *refused.notes, *refused.helps])
    lacks = refused.missing_bytes > REFUSED_BYTES
    raise TwdError(FailureCode.OUT_OF_MEMORY if lacks else FailureCode.MODEL_LOAD, text, "model")


def _without_place(wanted: WantedState, pool: ObservedState) -> PlacementDecided | None:
    """Return the decision on the first replica that has no place beside those before it; None where all have one."""
    for model in wanted.models:
        decision = decide(wanted, pool, model)
        if not decision.slices:
            return decision
        pool = replace(pool, decided={**pool.decided, model.name: decision})
    return None


def _in_turns(settings: Settings) -> bool:
    """Whether models must use the same machines one after another: llama-server's RPC workers serve one process at a
    time."""
    return settings.pool.engine == "llama-server" and bool(settings.pool.workers)


def _device_bytes(machine: NodeFacts | None) -> int:
    """Return the free bytes of devices that our engine can use; a GPU that the engine has no backend for counts as
    nothing."""
    if machine is None or all(build.name != "engine" for build in machine.builds):
        return 0
    return sum(gpu.free for gpu in usable(machine))


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended, so its memory is already free
        return 0
