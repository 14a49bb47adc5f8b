"""The names of devices, in plans and in llama.cpp."""

import re
from collections.abc import Iterator
from typing import Final

from twd.process.compute import CMAKE
from twd.wire.node import GpuFacts, NodeFacts

GIVEN: Final = "settings"
"""The backend of a device that comes from the settings."""
_NAMES: Final = {
    "cuda": "CUDA",
    "hip": "ROCm",
    "metal": "MTL",
    "vulkan": "Vulkan",
    "opencl": "GPUOpenCL",
    "sycl": "SYCL",
    "musa": "MUSA",
    "cann": "CANN",
}


def device_name(gpu: GpuFacts) -> str:
    """Return llama.cpp's name of a device; a device known only from the settings has its name there."""
    if gpu.backend == GIVEN:
        return gpu.name
    return gpu.device or f"{_NAMES.get(gpu.backend, gpu.backend)}{gpu.index}"


def can_compute(facts: NodeFacts, gpu: GpuFacts) -> bool:
    """Whether a machine's engine was built for a device; True where the engine's backends are unknown."""
    engine = next((build for build in facts.builds if build.name == "engine"), None)
    return engine is None or not engine.backends or gpu.backend == GIVEN or _kind(gpu) in engine.backends


def usable(facts: NodeFacts) -> list[GpuFacts]:
    """The devices of a machine that its own engine can compute on."""
    return [gpu for gpu in facts.gpus if can_compute(facts, gpu)]


def unbuilt(facts: NodeFacts) -> Iterator[tuple[str, str, str]]:
    """If a machine's engine can use none of its devices, yield for each: its name, the backend that the build lacks,
    and the command that builds it."""
    found = [gpu for gpu in facts.gpus if gpu.backend != GIVEN]
    if any(can_compute(facts, gpu) for gpu in found):
        return
    for gpu in found:
        kind = _kind(gpu)
        yield gpu.name, kind, f"CMAKE_ARGS=-D{CMAKE.get(gpu.backend, kind)}=on make setup"


def _kind(gpu: GpuFacts) -> str:
    return re.sub(r"\d+$", "", device_name(gpu))
