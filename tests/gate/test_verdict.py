"""Whether an answer stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.gate.verdict import EXACT, STATISTICS, Rule, Statistic, decide, may_leave, statistic_of
from twd.wire.job import AnswerVerdict

GAPS = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 20.0)), min_size=1, max_size=60)
RULES = st.builds(Rule, st.sampled_from(STATISTICS), st.floats(0.0, 10.0))


def test_an_answer_of_the_targets_own_choices_is_approved() -> None:
    decision = decide([0.0] * 20, 20, EXACT)
    assert (decision.verdict, decision.keep, decision.unlike) == (AnswerVerdict.APPROVE, 20, 0)


def test_what_precedes_the_first_bad_token_stays() -> None:
    decision = decide([0.0] * 8 + [0.5] + [0.0] * 11, 20, EXACT)
    assert (decision.verdict, decision.keep) == (AnswerVerdict.CORRECT, 8)


def test_too_little_is_rejected_unless_it_has_left_already() -> None:
    gaps = [0.0, 3.0, *[0.0] * 30]
    assert decide(gaps, 32, EXACT).verdict is AnswerVerdict.REJECT
    later = decide(gaps, 32, EXACT, said=4)
    assert (later.verdict, later.keep, later.unlike) == (AnswerVerdict.CORRECT, 4, 1)


def test_an_end_that_does_not_fit_keeps_all_tokens() -> None:
    decision = decide([0.0] * 10 + [2.0], 10, EXACT)
    assert (decision.verdict, decision.keep) == (AnswerVerdict.CORRECT, 10)


def test_what_was_not_scored_is_never_approved() -> None:
    assert decide([0.0] * 9, 10, EXACT).verdict is AnswerVerdict.CORRECT


@pytest.mark.parametrize("kind", STATISTICS)
def test_a_statistic_is_not_rounded_above_all_gaps(kind: Statistic) -> None:
    assert decide([0.003] * 3, 3, Rule(kind, 0.003)).verdict is AnswerVerdict.APPROVE


@given(GAPS, RULES)
def test_a_refused_answer_keeps_only_tokens_within_the_tolerance(gaps: list[float], rule: Rule) -> None:
    decision = decide(gaps, len(gaps), rule)
    if decision.verdict is AnswerVerdict.APPROVE:
        assert statistic_of(rule.statistic, gaps) <= rule.tolerance
    else:
        assert all(gap <= rule.tolerance for gap in gaps[: decision.keep])
        assert decision.keep < len(gaps)


@given(GAPS, st.sampled_from(STATISTICS))
def test_with_no_tolerance_every_statistic_asks_for_the_targets_own_text(gaps: list[float], kind: str) -> None:
    decision = decide(gaps, len(gaps), Rule("token", 0.0))
    assert decision.unlike == 0
    assert statistic_of("token", gaps) >= statistic_of("window", gaps) - 1e-9


@given(GAPS, st.integers(1, 60))
def test_nothing_leaves_before_enough_is_judged_behind_it(gaps: list[float], hold: int) -> None:
    assert may_leave(gaps, EXACT, hold) <= max(0, len(gaps) - hold)
    assert may_leave([*gaps, 1.0], EXACT, hold) == 0
