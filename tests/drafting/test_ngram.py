"""The drafter without a model proposes what really followed the longest match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.drafting.ngram import MAX_DRAFT, NgramIndex, confidence


def index_of(tokens: list[int]) -> NgramIndex:
    index = NgramIndex()
    index.extend(tokens)
    return index


def test_a_text_that_comes_again_is_copied() -> None:
    poem = list(range(100, 120))
    tokens, sure = index_of([*poem, 1, 2, *poem[:6]]).propose()
    assert tokens == [*poem[6:], 1, 2][: len(tokens)]
    assert len(tokens) == 12
    assert sure > 0.6


def test_nothing_to_copy_is_said() -> None:
    assert index_of(list(range(50))).propose() == ([], 0.0)
    assert index_of([1, 2]).propose() == ([], 0.0)


def test_a_text_that_turns_in_a_circle_is_read_round() -> None:
    tokens, _ = index_of([1, 2, 3, 4] * 5).propose(10)
    assert tokens == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]


def test_the_longest_match_wins_over_the_latest() -> None:
    text = [9, 8, 7, 6, 5, 50, 51, 52, 0, 0, 0, 7, 6, 5, 60, 61, 62, 1, 1, 1, 9, 8, 7, 6, 5]
    assert index_of(text).propose(2)[0] == [50, 51]


@pytest.mark.parametrize("min_match", [1, 2, 3, 4])
def test_a_match_is_as_long_as_it_has_to_be(min_match: int) -> None:
    index = NgramIndex(min_match)
    index.extend([7, 8, 9, 50, 51, 0, 1, 7, 8, 9])
    assert index.propose(2)[0] == ([50, 51] if min_match <= 3 else [])


@given(st.lists(st.integers(0, 5), max_size=80), st.integers(1, 30))
def test_a_proposal_is_bounded_and_comes_from_the_text(text: list[int], limit: int) -> None:
    tokens, sure = index_of(text).propose(limit)
    assert len(tokens) <= min(limit, MAX_DRAFT)
    assert set(tokens) <= set(text)
    assert 0.0 <= sure < 1.0
    if tokens:
        ends = [i for i in range(3, len(text)) if text[i - 3 : i] == text[-3:]]
        assert any(text[i] == tokens[0] for i in ends)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60))
def test_growing_in_steps_finds_the_same(text: list[int], cut: int) -> None:
    grown = index_of(text[:cut])
    grown.extend(text[cut:])
    assert grown.propose() == index_of(text).propose()


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=12), st.integers(1, 12))
def test_what_may_follow_counts_as_the_texts_end(text: list[int], beyond: list[int], limit: int) -> None:
    tokens, sure = index_of(text).propose(limit, beyond)
    whole = index_of([*text, *beyond]).propose(limit)
    assert len(tokens) <= limit
    assert sure <= whole[1], "places within what may follow are not looked at"
    if tokens and sure == whole[1]:
        joined = [*text, *beyond]
        ends = [i for i in range(3, len(text)) if joined[i - 3 : i] == joined[-3:]]
        assert any(joined[i] == tokens[0] for i in ends)


def test_a_guess_is_continued_from_the_text() -> None:
    poem = list(range(100, 120))
    tokens, _ = index_of([*poem, 1, 2, 100, 101]).propose(4, [102, 103])
    assert tokens == poem[4:8]


def test_longer_matches_are_surer() -> None:
    values = [confidence(match) for match in range(3, 30)]
    assert values == sorted(values)
