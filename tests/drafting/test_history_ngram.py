"""Earlier answers are found again, only so much of them is kept, and what is forgotten leaves nothing behind."""

from hypothesis import given
from hypothesis import strategies as st

from twd.drafting.history_ngram import MIN_MATCH, HistoryNgram
from twd.drafting.ngram import MAX_DRAFT

ANSWER = list(range(100, 160))


def recalled(*answers: list[int], tokens_max: int = 1000) -> HistoryNgram:
    recall = HistoryNgram(tokens_max)
    for answer in answers:
        recall.remember(answer)
    return recall


def test_what_followed_in_an_earlier_answer() -> None:
    recall = recalled(ANSWER)
    tokens, sure = recall.propose([7, 8, *ANSWER[:10]])
    assert tokens == ANSWER[10:30]
    assert 0.7 < sure < 1.0
    assert recall.propose([7, 8, *ANSWER[:10]], 4)[0] == ANSWER[10:14]
    assert len(recall.propose(ANSWER[:40])[0]) <= MAX_DRAFT


def test_too_little_agrees() -> None:
    recall = recalled(ANSWER)
    assert recall.propose([7, *ANSWER[: MIN_MATCH - 1]]) == ([], 0.0)
    assert recall.propose(ANSWER[: MIN_MATCH - 1]) == ([], 0.0)
    assert recall.propose(ANSWER[:20], 0) == ([], 0.0)
    assert recall.propose(ANSWER) == ([], 0.0), "nothing followed its end"
    assert HistoryNgram(1000).propose(ANSWER) == ([], 0.0)


def test_the_longest_match_counts_and_of_equal_ones_the_latest() -> None:
    shared = ANSWER[10:16]
    long, short = [*ANSWER[:16], 1, 2, 3], [9, *shared, 4, 5, 6]
    recall = recalled(long, short)
    assert recall.propose(ANSWER[:16])[0] == [1, 2, 3]
    assert recall.propose([8, *shared])[0] == [4, 5, 6]


def test_the_oldest_goes_first() -> None:
    other = list(range(300, 340))
    recall = recalled(ANSWER, other, tokens_max=60)
    assert len(recall) == len(other)
    assert recall.propose(ANSWER[:10]) == ([], 0.0)
    assert recall.propose(other[:10])[0] == other[10:30]


def test_of_one_that_is_too_long_the_beginning_is_kept() -> None:
    recall = recalled(ANSWER, tokens_max=20)
    assert len(recall) == 20
    assert recall.propose(ANSWER[:10])[0] == ANSWER[10:20]


def test_nothing_is_remembered_where_nothing_may_be() -> None:
    recall = recalled(ANSWER, tokens_max=0)
    assert (len(recall), recall._places) == (0, {})


@given(st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=12), st.integers(0, 60))
def test_whatever_is_remembered_stays_within_bounds_and_is_true(answers: list[list[int]], tokens_max: int) -> None:
    recall = HistoryNgram(tokens_max)
    for answer in answers:
        recall.remember(answer)
        assert len(recall) <= tokens_max
    assert len(recall) == sum(map(len, recall._answers.values()))
    known = {number for places in recall._places.values() for number, _ in places}
    assert known <= set(recall._answers)
    assert all(recall._places.values())
    for answer in answers:
        tokens, _ = recall.propose(answer)
        if tokens:
            run = [*answer[-MIN_MATCH:], *tokens]
            kept = list(recall._answers.values())
            assert any(run == one[at : at + len(run)] for one in kept for at in range(len(one)))
