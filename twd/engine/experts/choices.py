"""Models whose experts are all in memory: what each token chose is remembered, for others who must read theirs."""

from collections.abc import Callable
from pathlib import Path

from twd.engine.experts.layout import ExpertLayout, expert_layout
from twd.engine.experts.native import NativeExperts, can_tell_choices
from twd.engine.experts.overlay import mapped_fragments
from twd.engine.experts.placing import placed_matrices


def remembers_choices(path: Path) -> bool:
    """Whether the model at `path` is a mixture, and this build can remember what its tokens choose."""
    return can_tell_choices() and expert_layout(path) is not None


def open_remembering(layout: ExpertLayout, load: Callable[[], int]) -> tuple[int, NativeExperts | None]:
    """Load a mapped model with `load`. Returns its handle, and what remembers its choices; None: not all is mapped."""
    before = set(mapped_fragments(layout.shards))
    handle = load()
    found = [one for one in mapped_fragments(layout.shards) if one not in before]
    matrices = placed_matrices(layout, found)
    return handle, NativeExperts((), matrices, 0) if matrices else None
