"""The cost of a window counts what its own tokens read from disk."""

from collections.abc import Sequence
from itertools import accumulate

from twd.speculator.core.expert_reads import ExpertReads

HELD, AWAY = 1, 2


def reading(tokens: Sequence[int]) -> list[float]:
    """The experts of some tokens are in memory; those of others take ten milliseconds each."""
    return list(accumulate(0.0 if token == HELD else 10.0 for token in tokens))


def usual(rows: int) -> float:
    return 20.0 + 5.0 * rows


def test_a_window_whose_experts_are_in_memory_costs_less_than_one_whose_experts_are_not() -> None:
    reads = ExpertReads(reading)
    for _ in range(200):
        reads.cost(usual, [HELD, HELD, HELD])
        reads.cost(usual, [AWAY, AWAY, AWAY])
    held, away = reads.cost(usual, [HELD] * 3), reads.cost(usual, [AWAY] * 3)
    for rows in (1, 2, 3):
        assert held(rows) < usual(rows) < away(rows)
        assert away(rows) - held(rows) > 8.0 * rows
    mixed = reads.cost(usual, [HELD, HELD, AWAY])
    assert mixed(3) - mixed(2) > mixed(2) - mixed(1) + 8.0, "the third token brings its experts in"


def test_usual_tokens_cost_what_is_usual_and_nothing_costs_nearly_nothing() -> None:
    reads = ExpertReads(reading)
    for _ in range(200):
        cost = reads.cost(usual, [AWAY, AWAY])
    assert abs(cost(1) - usual(1)) < 0.1
    assert abs(cost(2) - usual(2)) < 0.1
    assert abs(cost(9) - usual(9)) < 0.1, "beyond the window as usual"
    assert reads.cost(usual, [HELD, HELD])(2) >= usual(2) / 2


def test_a_disk_whose_speed_is_not_known_changes_nothing() -> None:
    assert ExpertReads(lambda tokens: []).cost(usual, [HELD]) is usual
