"""What a device is called in plans, and by llama.cpp."""

from typing import Final

from twd.wire.node import GpuFacts

GIVEN: Final = "settings"
"""In place of a backend, of a device that the settings name."""
_NAMES: Final = {"cuda": "CUDA", "hip": "ROCm", "metal": "MTL", "vulkan": "Vulkan"}


def device_name(gpu: GpuFacts) -> str:
    """As llama.cpp calls it; of a device that only the settings know, as they do."""
    if gpu.backend == GIVEN:
        return gpu.name
    return f"{_NAMES.get(gpu.backend, gpu.backend)}{gpu.index}"
