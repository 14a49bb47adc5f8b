"""Whether a model's file can be used, and how much memory it needs and finds on this machine."""

from collections.abc import Sequence
from pathlib import Path

import psutil

from twd.cli.doctor_models import weights_of
from twd.cli.life_core import Room, gib
from twd.engine.memory import available_bytes
from twd.gguf_tools.inspect import inspect
from twd.kit.settings import Settings
from twd.wire.base import InstanceId, NodeId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import NodeFacts


def check_file(settings: Settings, name: str) -> None:
    """Raise where the file of a model is not there or is no model; another server's model has none here."""
    model = settings.models.get(name)
    if model is None:
        return
    path = Path(model.path).expanduser()
    if not path.is_file():
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"there is no file {path} on this machine", "model")
    inspect(path)


def room_for(
    settings: Settings, name: str, goes: Sequence[str], pids: Sequence[int], node: NodeId, machines: Sequence[NodeFacts]
) -> Room:
    """What a model needs and what there is; `goes` are the models that would make room, `pids` their processes here."""
    model = settings.models.get(name)
    machine = next((facts for facts in machines if facts.node == node), None)
    needed = weights_of(name, model).needed if model is not None else 0
    devices = _device_bytes(machine) if model is not None and model.gpu_layers != 0 else 0
    if model is not None and settings.mode == "combined":
        check_pool(settings, name, goes, node, machines)
    if _pooled(settings):
        return Room(needed, 0, certain=False)
    if devices:
        return Room(needed, devices, certain=False)
    return Room(needed, available_bytes(), sum(_resident(pid) for pid in pids))


def check_pool(settings: Settings, name: str, goes: Sequence[str], node: NodeId, machines: Sequence[NodeFacts]) -> None:
    """Raise where a model would not fit into the pool, even without those that make room."""
    from twd.coordinator.core import Observed, Wanted, decide
    from twd.coordinator.service import wanted_model

    model = wanted_model(settings, name)
    wanted = Wanted(node, InstanceId("life"), settings.pool, (model,))
    decision = decide(wanted, Observed(nodes={facts.node: facts for facts in machines}), model)
    freed = sum(weights_of(one, settings.models[one]).needed for one in goes if one in settings.models)
    if decision.missing_bytes > freed:
        lacking = f"the pool lacks {gib(decision.missing_bytes - freed)} for {name}"
        raise TwdError(FailureCode.OUT_OF_MEMORY, "; ".join([lacking, *decision.helps]), "model")
    if not decision.slices and not decision.missing_bytes:
        text = "; ".join([f"the pool has no place for {name}", *decision.notes, *decision.helps])
        raise TwdError(FailureCode.MODEL_LOAD, text, "model")


def _pooled(settings: Settings) -> bool:
    """Whether models take the same machines in turn: a worker of llama.cpp's RPC serves one process at a time."""
    return settings.mode == "combined" or (settings.pool.engine == "llama-server" and bool(settings.pool.workers))


def _device_bytes(machine: NodeFacts | None) -> int:
    """Free memory of devices that our engine can use; a graphics card without a build for it counts for nothing."""
    if machine is None:
        return 0
    engine = next((build for build in machine.builds if build.name == "engine"), None)
    if engine is None or not set(engine.backends) - {"CPU", "RPC"}:
        return 0
    return sum(gpu.free for gpu in machine.gpus)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended: its memory is free already
        return 0
