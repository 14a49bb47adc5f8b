"""How often a model used each expert, counted from the lines that a worker logged."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from twd.moe.profile import ExpertCounter, skew
from twd.moe.profile_files import choices_in

TOP_EXPERTS: Final = 64


def profile(lines: Iterable[str]) -> dict[str, Any] | None:
    """Counts by layer and expert; None where no line tells of experts."""
    counter = ExpertCounter()
    for layer, chosen in choices_in(lines):
        counter.add(layer, chosen)
    found = counter.profile()
    if not found.hits:
        return None
    hottest = list(found.by_expert().items())[:TOP_EXPERTS]
    top = [{"layer": layer, "expert": expert, "hits": int(n)} for (layer, expert), n in hottest]
    shares = {str(layer): round(skew(counts), 4) for layer, counts in found.hits.items()}
    return {"total_tokens": int(found.tokens), "top_experts": top, "per_layer_skew": shares}


def profile_of(log: Path) -> dict[str, Any] | None:
    """Return the counts for a whole log; blocks while it reads."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        return profile(lines)
