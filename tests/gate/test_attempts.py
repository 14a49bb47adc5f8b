"""A member that is calibrated again and again until it passes."""

import random
from pathlib import Path

import pytest

from twd.gate.calibration.attempts import KEPT_MAX, Attempts, confidence_of
from twd.gate.calibration.profile import FOLDER, Conditions
from twd.gate.calibration.search import Observation, calibrate

CONDITIONS = Conditions(judge="big", member="small", judge_is="a", member_is="b", sampling="c", hold="d")


def seen(number: int, took_ms: float = 0.0) -> list[Observation]:
    return [Observation(f"c{number}", (1.0,), wrong=False, judge_ms=took_ms)]


def test_each_set_of_answers_is_an_attempt(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, CONDITIONS, 0.05)
    assert attempts.number(seen(0)) == 1
    attempts.add(seen(0))
    assert attempts.number(seen(1)) == 2
    attempts.add(seen(1))
    again = Attempts(tmp_path, CONDITIONS, 0.05)
    assert [again.number(seen(number, took_ms=9.0)) for number in range(3)] == [1, 2, 3]


def test_other_conditions_begin_anew(tmp_path: Path) -> None:
    Attempts(tmp_path, CONDITIONS, 0.05).add(seen(0))
    assert Attempts(tmp_path, CONDITIONS, 0.1).number(seen(1)) == 1


def test_the_file_stays_small_and_a_broken_one_counts_as_none(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, CONDITIONS)
    for number in range(2 * KEPT_MAX):
        attempts.add(seen(number))
    assert attempts.number(seen(-1)) == KEPT_MAX + 1
    (tmp_path / FOLDER / "attempts.json").write_text("{")
    assert attempts.number(seen(-1)) == 1


@pytest.mark.parametrize(("attempt", "sure"), [(1, 0.95), (2, 0.975), (3, 0.9875)])
def test_each_must_be_surer(attempt: int, sure: float) -> None:
    assert confidence_of(attempt, 0.95) == pytest.approx(sure)


def test_who_tries_ten_times_seldom_gets_a_wrong_rule() -> None:
    """5.5 % of the answers are wrong whatever their gaps: at 5 % no rule may be proved."""
    dice, wrong_rules, rounds = random.Random(5), 0, 100
    for _ in range(rounds):
        for attempt in range(1, 11):
            answers = [Observation(f"c{n}", (dice.random(),), dice.random() < 0.055) for n in range(300)]
            if calibrate(answers, 0.05, confidence_of(attempt, 0.95)).rule is not None:
                wrong_rules += 1
                break
    assert wrong_rules <= 0.1 * rounds
