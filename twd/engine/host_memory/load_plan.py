"""How a model file should come into memory: mapped or read, read ahead or not, and whether to give the cache back."""

from dataclasses import dataclass
from typing import Final

PREWARM_SHARE: Final = 0.8
RECLAIM_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`drop`: the system keeps no second copy of the file in its cache."""

    mapped: bool
    prewarm: bool
    drop: bool

    def words(self) -> str:
        """For people."""
        if self.drop and not self.mapped:
            return "read into memory of its own, and the system's copy is given back"
        ahead = "read ahead, then " if self.prewarm else ""
        return f"{ahead}mapped" if self.mapped else "read into memory of its own; the system keeps a copy in its cache"


def ram_plan(
    size: int, available: int, *, reclaim: str = "auto", prewarm: bool = True, mmap: str = "auto"
) -> MemoryPlan:
    """`size` and `available` in bytes; the words are those of the settings `ram_reclaim` and `mmap`.

    A mapped file cannot be given back, so reclaiming means reading it, unless mapping is demanded. What is
    read comes in order anyway, so only what is mapped is worth reading ahead.
    """
    drop = reclaim == "on" or (reclaim == "auto" and size > RECLAIM_SHARE * available)
    mapped = mmap == "on" or (mmap == "auto" and not drop)
    return MemoryPlan(mapped, prewarm and mapped and size > PREWARM_SHARE * available, drop)
