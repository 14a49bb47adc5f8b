"""Environment variables for processes that compute on each kind of device, and how much CPU time a process used."""

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
"""A build may have several backends, which would count one card twice: the other backends get no devices."""
SEVERAL_HIP: Final[Mapping[str, str]] = {"HSA_ENABLE_SDMA": "0", "GPU_MAX_HW_QUEUES": "1"}
"""Several AMD cards stall each other at copies without these."""

CMAKE: Final = {"cuda": "GGML_CUDA", "hip": "GGML_HIP", "metal": "GGML_METAL", "vulkan": "GGML_VULKAN"}
"""The llama.cpp build option for each kind of device."""

ALL_LAYERS: Final = 1_000_000
"""Stands for all layers; no model has so many."""


@dataclass(frozen=True, slots=True)
class ProcessEffort:
    """What a process used since its start: CPU seconds, and page faults that waited for the disk."""

    cpu_s: float = 0.0
    faults: int = 0


def backend_of(settings: Settings, model: ModelConfig | None = None) -> str:
    """Return the backend of a model, or else of this machine."""
    own = model.backend if model is not None else "auto"
    return settings.engine.backend if own == "auto" else own


def engine_environment(settings: Settings, backend: str, cards: int = 0) -> dict[str, str]:
    """Return the environment of a process that computes.

    `cards`: number of AMD cards found. The settings take precedence.
    """
    several = max(cards, len(settings.pool.gpus)) > 1
    more = SEVERAL_HIP if backend == "hip" and several else {}
    return {**PRESETS[backend], **more, **settings.engine.env}


def wanted_layers(told: Auto | int, every: int = ALL_LAYERS) -> int:
    """Return the number of layers that a setting puts on devices; `every` stands for all layers."""
    return every if told == "auto" else told


def gpu_layers(settings: Settings, model: ModelConfig, every: int = ALL_LAYERS) -> int:
    """Return how many layers of a model go to devices; 0 if it computes on the CPU."""
    if backend_of(settings, model) == "cpu":
        return 0
    return wanted_layers(model.gpu_layers, every)


def crowding() -> float:
    """Return the load average of the last minute for each core; 1 where the system does not tell."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def effort() -> ProcessEffort:
    """Return the effort of this process; only the CPU time where page faults are not counted."""
    try:
        import resource
    except ImportError:
        return ProcessEffort(time.process_time())
    return ProcessEffort(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_majflt)
