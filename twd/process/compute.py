"""What a kind of device needs to be known-good: the environment of processes that compute; and how hard they try."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from twd.settings.model import ModelConfig, Settings
from twd.settings.types import Auto

CUDA: Final = "CUDA_VISIBLE_DEVICES"
HIP: Final = "HIP_VISIBLE_DEVICES"
VULKAN: Final = "GGML_VK_VISIBLE_DEVICES"
PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "auto": {},
    "cuda": {VULKAN: ""},
    "hip": {VULKAN: ""},
    "metal": {},
    "vulkan": {CUDA: "", HIP: "-1"},
    "cpu": {CUDA: "", HIP: "-1", VULKAN: ""},
}
"""A build may hold several backends, which would count the same card twice: the ones not asked for see nothing."""
SEVERAL_HIP: Final[Mapping[str, str]] = {"HSA_ENABLE_SDMA": "0", "GPU_MAX_HW_QUEUES": "1"}
"""Without these, several AMD cards stall each other when they copy."""

CMAKE: Final = {"cuda": "GGML_CUDA", "hip": "GGML_HIP", "metal": "GGML_METAL", "vulkan": "GGML_VULKAN"}
"""With which option llama.cpp is built for a kind of device."""

ALL_LAYERS: Final = 1_000_000
"""More than any model has."""


@dataclass(frozen=True, slots=True)
class ProcessEffort:
    """What a process has done since it began: seconds of the processor, and pages that it waited for its disk for."""

    cpu_s: float = 0.0
    faults: int = 0


def backend_of(settings: Settings, model: ModelConfig | None = None) -> str:
    """The kind of device that a model, or else this machine, computes on."""
    own = model.backend if model is not None else "auto"
    return settings.engine.backend if own == "auto" else own


def engine_environment(settings: Settings, backend: str, cards: int = 0) -> dict[str, str]:
    """The environment of a process that computes; `cards` are the AMD cards that were found. The settings win."""
    several = max(cards, len(settings.pool.gpus)) > 1
    more = SEVERAL_HIP if backend == "hip" and several else {}
    return {**PRESETS[backend], **more, **settings.engine.env}


def wanted_layers(told: Auto | int, every: int = ALL_LAYERS) -> int:
    """How many layers a setting asks to be put on devices; `every` stands for all of them."""
    return every if told == "auto" else told


def gpu_layers(settings: Settings, model: ModelConfig, every: int = ALL_LAYERS) -> int:
    """How many layers of a model go to devices; none where it computes on the processor."""
    if backend_of(settings, model) == "cpu":
        return 0
    return wanted_layers(model.gpu_layers, every)


def crowding() -> float:
    """How many processes want each core of this machine, on average over the last minute; 1 where that is not told."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def effort() -> ProcessEffort:
    """Of this process; where pages are not counted, the processor's time alone."""
    try:
        import resource
    except ImportError:
        return ProcessEffort(time.process_time())
    return ProcessEffort(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_majflt)
