"""Which experts a model used, counted from the lines that a worker wrote about them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

TOP_EXPERTS: Final = 64
BUSY_SHARE: Final = 0.1
_LINE: Final = re.compile(r"moe: layer=(\d+) chosen=\[([\d,\s]*)\]")


def profile(lines: Iterable[str]) -> dict[str, Any] | None:
    """Counts by layer and expert; None where no line tells of experts."""
    by_layer: dict[int, Counter[int]] = defaultdict(Counter)
    tokens: Counter[int] = Counter()
    for line in lines:
        for layer, chosen in _LINE.findall(line):
            by_layer[int(layer)].update(int(expert) for expert in re.findall(r"\d+", chosen))
            tokens[int(layer)] += 1
    if not by_layer:
        return None
    hits = Counter({(layer, expert): n for layer, counts in by_layer.items() for expert, n in counts.items()})
    top = [{"layer": layer, "expert": expert, "hits": n} for (layer, expert), n in hits.most_common(TOP_EXPERTS)]
    skew = {str(layer): _skew(counts) for layer, counts in sorted(by_layer.items())}
    return {"total_tokens": max(tokens.values()), "top_experts": top, "per_layer_skew": skew}


def _skew(counts: Counter[int]) -> float:
    """The share of hits that the busiest tenth of the experts seen gets."""
    busiest = counts.most_common(max(1, round(len(counts) * BUSY_SHARE)))
    return round(sum(n for _, n in busiest) / max(1, counts.total()), 4)


def profile_of(log: Path) -> dict[str, Any] | None:
    """The same for a whole log; blocks while it reads."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        return profile(lines)
