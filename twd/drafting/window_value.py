"""How many guesses are worth a check."""

from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from operator import mul

Cost = Callable[[int], float]
"""rows in one pass -> milliseconds"""


def best_cut(
    chances: Sequence[float], cost: Cost, spent_ms: float = 0.0, *, rows: int = 1, sure: float = 1.0
) -> tuple[int, float]:
    """How many of these drafts to check so that tokens per millisecond are highest, and that rate.

    `chances[i]` is the chance that drafts 0..i all hold; on a tree, that node i is reached. `sure` tokens come of the
    pass anyway, from `rows` rows.
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
    """The chance that the first draft holds, that the first two do, and so on."""
    return list(accumulate(repeat(chance, drafts), mul))
