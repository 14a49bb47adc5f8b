"""A text that the client expects: followed, left, and found again."""

from hypothesis import given
from hypothesis import strategies as st

from twd.drafting.ngram import MAX_DRAFT
from twd.drafting.prediction import MIN_MATCH, Prediction

EXPECTED = list(range(10, 50))


def after(answer: list[int], expected: list[int] = EXPECTED) -> Prediction:
    prediction = Prediction(expected)
    prediction.extend(answer)
    return prediction


def test_it_is_proposed_from_the_start() -> None:
    tokens, sure = Prediction(EXPECTED).propose()
    assert tokens == EXPECTED[:MAX_DRAFT]
    assert 0.5 < sure < 1.0
    assert Prediction(EXPECTED).propose(3)[0] == EXPECTED[:3]
    assert Prediction([]).propose() == ([], 0.0)


def test_an_answer_that_follows_it_is_followed_to_its_end() -> None:
    prediction = Prediction(EXPECTED)
    before = prediction.propose()[1]
    prediction.extend(EXPECTED[:30])
    tokens, sure = prediction.propose()
    assert tokens == EXPECTED[30:]
    assert sure > before
    prediction.extend(EXPECTED[30:])
    assert prediction.propose() == ([], 0.0)
    assert prediction.held == len(prediction) == len(EXPECTED)


def test_an_answer_that_leaves_it_is_found_again_and_believed_little_by_little() -> None:
    prediction = after([*EXPECTED[:5], 99, 98])
    assert prediction.propose() == ([], 0.0)
    prediction.extend(EXPECTED[7:9])
    tokens, sure = prediction.propose()
    assert tokens == EXPECTED[9 : 9 + MAX_DRAFT]
    assert sure < Prediction(EXPECTED).propose()[1]
    prediction.extend(EXPECTED[9:15])
    assert prediction.propose()[0] == EXPECTED[15 : 15 + MAX_DRAFT]
    assert prediction.propose()[1] > sure
    assert prediction.held == 5 + 6


def test_of_equal_places_the_next_one_is_meant() -> None:
    expected = [1, 2, 3, 7, 1, 2, 4, 8, 1, 2, 5]
    assert after([1, 2, 3, 9, 1, 2], expected).propose()[0][0] == 4
    assert after([1, 2, 3, 7, 1, 2, 4, 9, 1, 2], expected).propose()[0][0] == 5
    assert after([1, 2, 3, 7, 1, 2, 4, 8, 1, 2, 5, 9, 1, 2], expected).propose()[0][0] == 3, "none is ahead"


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30), st.integers(0, 30))
def test_what_is_proposed_stands_in_it_behind_what_was_said(expected: list[int], answer: list[int], limit: int) -> None:
    prediction = Prediction(expected)
    for i, token in enumerate(answer):
        tokens, sure = prediction.propose(limit)
        assert len(tokens) <= min(limit, MAX_DRAFT)
        assert bool(tokens) == (sure > 0)
        said = answer[:i][-MIN_MATCH:] if expected[:i] != answer[:i] else []
        windows = (expected[start : start + len(said) + len(tokens)] for start in range(len(expected) + 1))
        assert not tokens or [*said, *tokens] in windows
        prediction.extend([token])
    assert 0 <= prediction.held <= len(answer)
