"""What guesses are worth, and how many of them: arithmetic that can be checked by brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.drafting.calibration import Calibration
from twd.drafting.window_value import best_cut

chances = st.lists(st.floats(0.0, 1.0), max_size=12).map(lambda values: sorted(values, reverse=True))


def cost(rows: int) -> float:
    return 10.0 + rows


@given(chances, st.floats(0.0, 50.0))
def test_the_best_cut_is_the_best(path: list[float], spent: float) -> None:
    cut, rate = best_cut(path, cost, spent)
    rates = [(1 + sum(path[:k])) / (spent + cost(k + 1)) for k in range(len(path) + 1)]
    assert rate == pytest.approx(max(rates))
    assert rates[cut] == pytest.approx(max(rates))


def test_a_calibration_learns_what_a_confidence_is_worth() -> None:
    record = Calibration()
    assert record.chance(0.6) == pytest.approx(0.6)
    for _ in range(200):
        record.learn(0.75, right=True)
    assert record.chance(0.75) > 0.95
    for _ in range(200):
        record.learn(0.9, right=False)
    assert record.chance(0.9) < 0.1
    assert record.chance(0.2) == pytest.approx(0.2)
