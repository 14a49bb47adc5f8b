"""How many drafts are worth verifying."""

from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from operator import mul

Cost = Callable[[int], float]
"""rows in one pass -> milliseconds"""


def best_cut(
    chances: Sequence[float], cost: Cost, spent_ms: float = 0.0, *, rows: int = 1, sure: float = 1.0
) -> tuple[int, float]:
    """Returns how many of these drafts to verify for the most tokens per millisecond, and that rate.

    `chances[i]` is the chance that drafts 0..i are all accepted; on a tree, that node i is reached. Without drafts,
    the pass has `rows` rows and yields `sure` tokens.
    """
    expected = sure
    best, best_rate = 0, sure / (spent_ms + cost(rows))
    for i, chance in enumerate(chances):
        expected += chance
        rate = expected / (spent_ms + cost(rows + i + 1))
        if rate > best_rate:
            best, best_rate = i + 1, rate
    return best, best_rate


def held_in_a_row(chance: float, drafts: int) -> list[float]:
    """Returns the chance that the first draft is accepted, that the first two are, and so on."""
    return list(accumulate(repeat(chance, drafts), mul))
