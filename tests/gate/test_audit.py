"""The audited error rate, in an interval that holds at every look."""

import random

import pytest

from twd.drafting.betting import Audit, log_stake
from twd.gate.audit import due


def stream(dice: random.Random, rate: float, audits: int, max_error: float = 0.05) -> int | None:
    """After how many audits it is shown that the rate is too high."""
    errors = 0
    for count in range(1, audits + 1):
        errors += dice.random() < rate
        if log_stake(count, errors, max_error) >= 2.9957:
            return count
    return None


def test_at_the_bound_few_are_closed_ever() -> None:
    dice = random.Random(1)
    closed = sum(stream(dice, 0.05, 1000) is not None for _ in range(300))
    assert closed / 300 <= 0.07


def test_at_three_times_the_bound_half_close_soon() -> None:
    dice = random.Random(2)
    times = sorted(stream(dice, 0.15, 2000) or 2000 for _ in range(400))
    assert times[len(times) // 2] <= 60


@pytest.mark.thorough
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_the_interval_holds_at_every_look(rate: float) -> None:
    dice, missed = random.Random(3), 0
    for _ in range(60):
        audit = Audit(0.05)
        for _ in range(150):
            audit.learn(dice.random() < rate)
        missed += not audit.low <= rate <= audit.high
    assert missed <= 6


def test_it_closes_where_the_lower_end_is_above() -> None:
    audit = Audit(0.05)
    for number in range(40):
        audit.learn(number % 2 == 0)
    assert audit.broken
    assert audit.low > 0.05


def test_the_first_are_all_audited_and_then_a_share() -> None:
    assert due(100, 0.05, 100, 0.99)
    assert not due(101, 0.05, 100, 0.99)
    assert due(101, 0.05, 100, 0.01)
    assert not due(1, 0.0, 100, 0.0)
