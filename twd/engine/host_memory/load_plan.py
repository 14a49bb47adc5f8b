"""Decides how to load a model file: mapped or read, read ahead or not, and whether to drop it from the page cache."""

from dataclasses import dataclass
from typing import Final

PREWARM_SHARE: Final = 0.8
RECLAIM_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How to load a file. `mapped`: by mmap. `prewarm`: read ahead. `drop`: keep no second copy in the page cache."""

    mapped: bool
    prewarm: bool
    drop: bool

    def words(self) -> str:
        """The plan as a text for users."""
        if self.drop and not self.mapped:
            return "read into memory of its own, and the system's copy is given back"
        ahead = "read ahead, then " if self.prewarm else ""
        return f"{ahead}mapped" if self.mapped else "read into memory of its own; the system keeps a copy in its cache"


def ram_plan(
    size: int, available: int, *, reclaim: str = "auto", prewarm: bool = True, mmap: str = "auto"
) -> MemoryPlan:
    """The plan for a file. `size` and `available` are in bytes; `reclaim` and `mmap` are settings: on, off or auto.

    The page cache of a mapped file cannot be dropped, so to drop it the file is read, unless `mmap` is on. A file that
    is read comes in order anyway, so only a mapped file is read ahead.
    """
    drop = reclaim == "on" or (reclaim == "auto" and size > RECLAIM_SHARE * available)
    mapped = mmap == "on" or (mmap == "auto" and not drop)
    return MemoryPlan(mapped, prewarm and mapped and size > PREWARM_SHARE * available, drop)
