"""The closed forms agree with themselves at their ends."""

import pytest

from twd.bench.analytic import (
    SpeculationSetting,
    best_continuous,
    best_round,
    continuous_rate,
    expected_tokens,
    plain_rate,
    round_rate,
    steady_width,
)


def flat(rows: int) -> float:
    return 40.0 + 0.3 * rows


def test_expected_tokens_at_the_ends() -> None:
    assert expected_tokens(0.0, 5) == pytest.approx(1.0)
    assert expected_tokens(1.0, 5) == 6.0
    assert expected_tokens(0.5, 1) == pytest.approx(1.5)


def test_useless_drafts_leave_plain_decoding() -> None:
    setting = SpeculationSetting(flat, token_ms=5.0, acceptance=0.0)
    assert best_round(setting) == (0, plain_rate(setting))
    assert best_continuous(setting) == plain_rate(setting)


def test_perfect_drafts_are_bound_by_the_slower_of_both() -> None:
    setting = SpeculationSetting(flat, token_ms=5.0, acceptance=1.0)
    width = steady_width(setting)
    assert continuous_rate(setting) == pytest.approx((width + 1) / max(flat(width + 1), (width + 1) * 5.0))
    assert continuous_rate(setting) <= 1 / 5.0


def test_running_on_beats_turns_and_more_so_the_farther_the_drafter() -> None:
    gains = []
    for round_trip in (0.0, 10.0, 30.0):
        setting = SpeculationSetting(flat, token_ms=5.0, acceptance=0.9, round_trip_ms=round_trip)
        gains.append(best_continuous(setting) / best_round(setting)[1])
    assert gains[0] > 1.1
    assert gains == sorted(gains)


def test_a_round_pays_for_drafting_flight_and_check() -> None:
    setting = SpeculationSetting(flat, token_ms=5.0, acceptance=1.0, round_trip_ms=7.0)
    assert round_rate(setting, 3) == pytest.approx(4 / (15 + 7 + flat(4)))
