"""Whether a model's file can be used, and how much memory it needs and finds on this machine."""

from collections.abc import Sequence
from pathlib import Path

import psutil

from twd.cli.doctor_models import weights_of
from twd.cli.life_core import Room
from twd.engine.memory import available_bytes
from twd.gguf_tools.inspect import inspect
from twd.kit.settings import Settings
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


def room_for(settings: Settings, name: str, pids: Sequence[int], machine: NodeFacts | None) -> Room:
    """What a model needs and what there is; `pids` are the processes that would go."""
    model = settings.models.get(name)
    needed = weights_of(name, model).needed if model is not None else 0
    devices = _device_bytes(machine) if model is not None and model.gpu_layers != 0 else 0
    if _pooled(settings):
        return Room(needed, 0, certain=False)
    if devices:
        return Room(needed, devices, certain=False)
    return Room(needed, available_bytes(), sum(_resident(pid) for pid in pids))


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
