"""What the stage service needs of a loaded slice."""

from collections.abc import Callable
from dataclasses import dataclass

from twd.kit.progress import Progress
from twd.stage.engine import SliceEngine
from twd.stage.server import HeldSlice
from twd.stage.timing import SliceTiming


@dataclass(frozen=True)
class LoadedSlice:
    """A slice in memory, ready to compute."""

    held: HeldSlice
    engine: SliceEngine
    timing: SliceTiming
    build: str = ""
    settings: str = ""
    load_ms: int = 0
    offloads: bool = False
    """Whether the slice is on GPUs or other devices, not on the CPU."""


Load = Callable[[Progress], LoadedSlice]
"""Loads the slice and reports its progress; runs on a thread of its own."""
