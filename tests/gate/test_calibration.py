"""Bounds and calibration, by example and by simulation with known error rates."""

import random
from itertools import combinations

import pytest

from twd.gate.calibration.binomial import at_most, excess, interval, lower_bound, trials_needed, upper_bound
from twd.gate.calibration.report import cost, rows, summary
from twd.gate.calibration.search import Calibrated, Observation, auroc, calibrate, parts_of, rate_at, roc, verdicts_at
from twd.gate.verdict import Rule


def observed(count: int, dice: random.Random, error: float = 0.2, sharp: float = 3.0) -> list[Observation]:
    """Answers of which wrong ones fit worse."""
    seen = []
    for number in range(count):
        wrong = dice.random() < error
        value = dice.gammavariate(2.0, 1.0) + (sharp if wrong else 0.0)
        seen.append(Observation(f"c{number}", (value,), wrong, kind="ab"[number % 2]))
    return seen


@pytest.mark.parametrize(("errors", "passes"), [(0, 59), (1, 93), (2, 124), (3, 153)])
def test_how_many_passes_it_takes(errors: int, passes: int) -> None:
    assert trials_needed(errors, 0.05, 0.95) == passes
    assert upper_bound(errors, passes, 0.95) <= 0.05
    assert upper_bound(errors, passes - 1, 0.95) > 0.05


def test_bounds_are_the_known_ones() -> None:
    assert upper_bound(0, 10, 0.95) == pytest.approx(0.2589, abs=1e-4)
    assert interval(5, 100)[0] == pytest.approx(0.01643, abs=1e-4)
    assert interval(5, 100)[1] == pytest.approx(0.11284, abs=1e-4)
    assert lower_bound(0, 50, 0.95) == 0.0
    assert at_most(3, 10, 0.5) == pytest.approx(0.171875)


def test_with_too_few_it_says_what_is_missing() -> None:
    found = calibrate(observed(100, random.Random(1)), 0.05)
    assert found.rule is None
    assert "59" in found.missing


def test_conversations_are_in_one_part_alone() -> None:
    seen = [Observation(f"c{number // 3}", (1.0,), False) for number in range(90)]
    parts = parts_of(seen)
    names = [{one.conversation for one in part} for part in parts]
    assert not any(one & other for one, other in combinations(names, 2))
    assert sum(map(len, parts)) == 90


def test_a_rule_is_found_where_scores_tell() -> None:
    found = calibrate(observed(1500, random.Random(2)), 0.05)
    assert found.rule is not None
    assert found.held_out.share > 0.5
    assert found.held_out.rate < found.all_passes.rate
    assert set(found.by_kind) == {"a", "b"}


def test_scores_that_tell_nothing_are_refused() -> None:
    found = calibrate(observed(900, random.Random(3), sharp=0.0), 0.05)
    assert found.rule is None
    assert "chance" in found.missing


def test_a_member_with_few_errors_needs_no_scores_that_tell() -> None:
    seen = observed(450, random.Random(6), error=0.01, sharp=0.0)
    assert calibrate(seen, 0.05).rule is not None


def test_a_refusal_tells_what_the_gate_does_without_a_rule() -> None:
    seen = observed(300, random.Random(7), sharp=0.0)
    found = calibrate(seen, 0.05)
    assert found.rule is None
    told = list(rows(found, seen))
    assert any(row.split()[0] == "a" and "while that is not calibrated 0 approved" in row for row in told)
    assert set(summary(found, seen)["uncalibrated"]) == {"all", "a", "b"}


def test_the_area_is_that_of_all_pairs() -> None:
    dice = random.Random(4)
    seen = [Observation(str(n), (float(dice.randrange(5)),), dice.random() < 0.4) for n in range(60)]
    wrong = [one.gaps[0] for one in seen if one.wrong]
    right = [one.gaps[0] for one in seen if not one.wrong]
    pairs = sum((w > r) + (w == r) / 2 for w in wrong for r in right) / (len(wrong) * len(right))
    assert auroc(seen, "token") == pytest.approx(pairs)
    assert roc(seen, "token")[-1][1:] == (1.0, 1.0)


def true_error(rule: Rule, dice: random.Random, error: float, sharp: float) -> float:
    return rate_at(observed(4000, dice, error, sharp), rule).rate


@pytest.mark.parametrize(("error", "sharp"), [(0.08, 0.8), pytest.param(0.2, 2.0, marks=pytest.mark.thorough)])
def test_few_calibrations_exceed_their_bound(error: float, sharp: float) -> None:
    dice = random.Random(5)
    rules = [calibrate(observed(360, dice, error, sharp), 0.05, salt=str(n)).rule for n in range(150)]
    exceeding = sum(true_error(rule, dice, error, sharp) > 0.053 for rule in rules if rule is not None)
    assert exceeding / len(rules) <= 0.08


def test_the_excess_of_a_random_pass_is_that_of_all_over_the_chosen() -> None:
    low, high = excess(40, 200, 5, 100)
    assert low > 0.0
    assert low < 40 / 200 - 5 / 100 < high
    low, high = excess(40, 200, 20, 100)
    assert low < 0.0 < high
    assert excess(3, 100, 3, 100) == (0.0, 0.0)


def test_what_does_not_pass_is_corrected_or_rejected() -> None:
    seen = [Observation("c", gaps, wrong=False, tokens=4) for gaps in ((0.0,) * 4, (0.0, 0.0, 9.0, 0.0), (9.0,) * 4)]
    found = verdicts_at(seen, Rule("token", 1.0))
    assert (found.passes, found.corrected, found.of) == (1, 1, 3)


def test_the_target_writes_what_is_left() -> None:
    gaps = ((0.0,) * 4, (0.0, 0.0, 9.0, 0.0))
    seen = [Observation("c", one, False, tokens=4, read_ms=10.0, judge_ms=4.0, exact_ms=40.0) for one in gaps]
    spent = cost(Calibrated(None, ""), seen)
    assert (spent["gate"], spent["exact"]) == (10.0 + 4.0 + 0.5 * 0.5 * 40.0, 50.0)
