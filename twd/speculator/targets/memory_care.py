"""Loads a model's file without taking more memory from other programs than needed, and frees what is not needed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from twd.engine.host_memory.limits import available_bytes
from twd.engine.host_memory.load_plan import MemoryPlan, ram_plan
from twd.engine.host_memory.page_cache import CAN_DROP, Footprint, drop, footprint, read_ahead, release_mapped
from twd.gguf_tools.inspect import shards_of
from twd.kit.progress import Progress
from twd.settings.model import ModelConfig, Settings
from twd.settings.paths import path_of
from twd.wire.base import ModelId, NodeId
from twd.wire.failures import TwdError
from twd.wire.life import MemoryReclaimed

log = logging.getLogger("twd.memory")
_STEP = 0.05


@dataclass(frozen=True, slots=True)
class ReclaimedMemory:
    """Memory before and after it was freed."""

    before: Footprint
    after: Footprint


def nothing_reclaimed(node: NodeId, model: ModelId) -> MemoryReclaimed:
    """Returns the event that nothing was freed; the caller adds why."""
    return MemoryReclaimed(node=node, model=model, rss_before=0, rss_after=0, cached_before=0, cached_after=0)


def outcome_of(reclaim: Callable[[], ReclaimedMemory], told: MemoryReclaimed) -> MemoryReclaimed:
    """Returns the event `told` with the freed memory, or with the reason why nothing was freed."""
    try:
        done = reclaim()
    except (TwdError, OSError) as error:
        return msgspec.structs.replace(told, problem=str(error))
    before, after = done.before, done.after
    return msgspec.structs.replace(
        told,
        rss_before=before.rss,
        rss_after=after.rss,
        cached_before=max(0, before.cached),
        cached_after=max(0, after.cached),
    )


class MemoryCare:
    """Memory handling for one model's files."""

    def __init__(self, model: ModelConfig, settings: Settings) -> None:
        self.paths = shards_of(path_of(model.path))
        size = sum(path.stat().st_size for path in self.paths if path.exists())
        self.plan: MemoryPlan = ram_plan(
            size, available_bytes(), reclaim=settings.ram_reclaim, prewarm=settings.prewarm, mmap=model.mmap
        )
        self._dropped = 0.0

    def prepare(self, progress: Progress) -> None:
        """Before loading: read the files ahead, if they would otherwise be read page by page."""
        if self.plan.prewarm:
            read_ahead(self.paths, lambda share: progress(0.0, f"reading ahead {share:.0%}"))

    def watch(self, progress: Progress) -> Progress:
        """Returns a progress function that also drops from the page cache what has been read."""
        if not self.plan.drop or self.plan.mapped or not CAN_DROP:
            return progress

        def told(share: float, stage: str) -> None:
            if share - self._dropped >= _STEP:
                self._dropped = share
                drop(self.paths)
            progress(share, stage)

        return told

    def finish(self) -> None:
        """After loading: free what is left in the page cache."""
        if not self.plan.drop or not CAN_DROP:
            return
        done = self.reclaim()
        log.info(
            "%s: %d MiB of page cache given back, %d MiB resident",
            self.paths[0].name,
            max(0, done.before.cached - done.after.cached) >> 20,
            done.after.rss >> 20,
        )

    def reclaim(self) -> ReclaimedMemory:
        """Free what is not needed: mapped pages, which are loaded again when they are read, and the page cache."""
        before = footprint(self.paths)
        release_mapped(self.paths)
        drop(self.paths)
        return ReclaimedMemory(before, footprint(self.paths))
