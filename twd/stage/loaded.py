"""What the service needs of a slice in memory."""

from collections.abc import Callable
from dataclasses import dataclass

from twd.kit.progress import Progress
from twd.stage.engine import SliceEngine
from twd.stage.server import HeldSlice
from twd.stage.timing import SliceTiming


@dataclass(frozen=True)
class LoadedSlice:
    """A slice that is ready to work."""

    held: HeldSlice
    engine: SliceEngine
    timing: SliceTiming
    build: str = ""
    settings: str = ""
    load_ms: int = 0
    offloads: bool = False
    """It lies on devices of its own, not on the processor."""


Load = Callable[[Progress], LoadedSlice]
"""Loads the slice, telling its progress; runs on a thread of its own."""
