"""A member that is calibrated again and again until it passes."""

import random
from pathlib import Path

import pytest

from twd.gate.calibration.attempts import KEPT_MAX, Attempt
from twd.gate.calibration.profile import FOLDER, Conditions
from twd.gate.calibration.search import Observation, calibrate

CONDITIONS = Conditions(judge="big", member="small", judge_is="a", member_is="b", sampling="c", hold="d")


def seen(number: int, took_ms: float = 0.0) -> list[Observation]:
    return [Observation(f"c{number}", (1.0,), wrong=False, judge_ms=took_ms)]


def number(home: Path, answers: list[Observation], *more: object) -> int:
    return Attempt(home, CONDITIONS, answers, *more).number


def test_each_set_of_answers_is_an_attempt(tmp_path: Path) -> None:
    assert number(tmp_path, seen(0), 0.05) == 1
    Attempt(tmp_path, CONDITIONS, seen(0), 0.05).keep()
    assert number(tmp_path, seen(1), 0.05) == 2
    Attempt(tmp_path, CONDITIONS, seen(1), 0.05).keep()
    assert [number(tmp_path, seen(one, took_ms=9.0), 0.05) for one in range(3)] == [1, 2, 3]


def test_other_conditions_begin_anew(tmp_path: Path) -> None:
    Attempt(tmp_path, CONDITIONS, seen(0), 0.05).keep()
    assert number(tmp_path, seen(1), 0.1) == 1


def test_the_file_stays_small_and_a_broken_one_counts_as_none(tmp_path: Path) -> None:
    for one in range(2 * KEPT_MAX):
        Attempt(tmp_path, CONDITIONS, seen(one)).keep()
    assert number(tmp_path, seen(-1)) == KEPT_MAX + 1
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_text("{")
    assert number(tmp_path, seen(-1)) == 1


def test_each_must_be_surer(tmp_path: Path) -> None:
    sure = []
    for one in range(3):
        attempt = Attempt(tmp_path, CONDITIONS, seen(one))
        attempt.keep()
        sure.append(attempt.confidence(0.95))
    assert sure == pytest.approx([0.95, 0.975, 0.9875])


@pytest.mark.thorough
def test_who_tries_ten_times_seldom_gets_a_wrong_rule(tmp_path: Path) -> None:
    """5.5 % of the answers are wrong whatever their gaps: at 5 % no rule may be proved."""
    dice, wrong_rules, rounds = random.Random(5), 0, 100
    for user in range(rounds):
        for _ in range(10):
            answers = [Observation(f"c{n}", (dice.random(),), dice.random() < 0.055) for n in range(300)]
            attempt = Attempt(tmp_path / str(user), CONDITIONS, answers)
            attempt.keep()
            if calibrate(answers, 0.05, attempt.confidence(0.95)).rule is not None:
                wrong_rules += 1
                break
    assert wrong_rules <= 0.1 * rounds
