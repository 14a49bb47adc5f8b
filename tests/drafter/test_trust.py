"""A draft model's doubts, beside what came of its guesses."""

from hypothesis import given
from hypothesis import strategies as st

from twd.drafter.trust import ConfidenceCalibration


def test_nothing_learned_means_believing_the_model() -> None:
    assert ConfidenceCalibration().exponent == 1.0
    assert ConfidenceCalibration().chance(0.3) == 0.3


def test_a_model_that_hesitates_and_is_right_may_run_on() -> None:
    trust = ConfidenceCalibration()
    for _ in range(100):
        trust.learn(0.5, True)
    assert trust.chance(0.5**8) > 0.5


def test_a_model_that_is_sure_and_wrong_rests_early() -> None:
    trust = ConfidenceCalibration()
    for number in range(200):
        trust.learn(0.9, number % 2 == 0)
    assert trust.chance(0.9**8) < 0.9**8


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=300), st.floats(0, 1))
def test_a_chance_stays_a_chance(told: list[tuple[float, bool]], confidences: float) -> None:
    trust = ConfidenceCalibration()
    for confidence, right in told:
        trust.learn(confidence, right)
    assert 0.0 <= trust.chance(confidences) <= 1.0
    assert trust.chance(confidences) >= trust.chance(confidences / 2)
