"""How much to check and whether to wait: arithmetic that can be checked by brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.drafting.calibration import Calibration
from twd.drafting.window_value import best_cut
from twd.speculator.core.acceptance import AcceptanceEstimates
from twd.speculator.core.window_size import (
    FLOOR_LEAST,
    FLOOR_MOST,
    ExpectedDrafts,
    common_width,
    expected_tokens,
    least_chance,
    predicted_rate,
    useful_credit,
    worth_waiting,
)
from twd.speculator.drafters.drafter_link import AttachedDrafter, DrafterLink
from twd.wire.base import InstanceId, NodeId

chances = st.lists(st.floats(0.0, 1.0), max_size=12).map(lambda values: sorted(values, reverse=True))


def cost(rows: int) -> float:
    return 10.0 + rows


@given(st.lists(chances, min_size=1, max_size=5), st.integers(1, 12))
def test_a_common_width_is_never_worse_than_plain(paths: list[list[float]], limit: int) -> None:
    width = common_width(paths, cost, limit)

    def rate(w: int) -> float:
        return sum(1 + sum(path[: w - 1]) for path in paths) / cost(len(paths) * w)

    assert 1 <= width <= limit + 1
    assert rate(width) >= rate(1) - 1e-9


def test_good_guesses_that_come_soon_are_worth_waiting_for_and_bad_ones_are_not() -> None:
    soon = ExpectedDrafts(first_ms=1.0, token_ms=1.0, chance=0.9, tokens=8)
    assert worth_waiting([], cost, 0.0, soon)
    assert not worth_waiting([], cost, 0.0, ExpectedDrafts(1.0, 1.0, 0.02, 8))
    assert not worth_waiting([], cost, 0.0, ExpectedDrafts(500.0, 1.0, 0.9, 8))
    assert not worth_waiting([0.9], cost, 0.0, ExpectedDrafts(1.0, 1.0, 0.9, 0))


def test_a_wait_must_bring_more_than_what_the_text_usually_comes_at() -> None:
    soon = ExpectedDrafts(first_ms=4.0, token_ms=2.0, chance=0.8, tokens=8)
    assert worth_waiting([], cost, 0.0, soon)
    assert worth_waiting([], cost, 0.0, soon, usual_rate=0.1)
    assert not worth_waiting([], cost, 0.0, soon, usual_rate=0.3)


@given(
    chances, st.floats(0.0, 20.0), st.floats(0.1, 9.0), st.floats(0.1, 0.99), st.floats(0.0, 1.0), st.floats(0.0, 1.0)
)
def test_the_quicker_the_text_usually_comes_the_less_is_waited(
    path: list[float], first: float, each: float, chance: float, one: float, other: float
) -> None:
    coming = ExpectedDrafts(first, each, chance, 16)
    quick, slow = max(one, other), min(one, other)
    if worth_waiting(path, cost, 0.0, coming, quick):
        assert worth_waiting(path, cost, 0.0, coming, slow)


def test_a_drafter_elsewhere_may_be_a_window_ahead_of_the_one_that_is_checked() -> None:
    def long(rows: int) -> float:
        return 200.0 + rows

    assert useful_credit(long, 0.97, 4.0, 20.0, False, 32, ahead=64) > 32
    assert useful_credit(long, 0.97, 4.0, 20.0, False, 32, ahead=64) <= 64
    assert useful_credit(long, 0.97, 4.0, 20.0, True, 32, ahead=64) <= 32


def test_the_same_drafter_is_worth_more_elsewhere_unless_it_is_far() -> None:
    beside, near, far = (
        predicted_rate(cost, 0.9, 4.0, way, here, 32) for way, here in ((0.0, True), (0.5, False), (500.0, False))
    )
    assert near > beside > far


@given(st.floats(0.0, 1.0), st.floats(0.0, 50.0), st.floats(0.0, 100.0), st.booleans(), st.integers(0, 40))
def test_a_predicted_rate_is_never_more_than_a_window_a_pass(
    chance: float, token_ms: float, way: float, beside: bool, window: int
) -> None:
    rate = predicted_rate(cost, chance, token_ms, way, beside, window)
    assert 0.0 <= rate <= (1 + window) / cost(1)


def test_credit_ends_where_guesses_cannot_pay() -> None:
    assert useful_credit(cost, 0.9, 2.0, 0.0, True, 32) > 0
    assert useful_credit(cost, 0.01, 2.0, 0.0, True, 32) == 0
    assert useful_credit(cost, 0.9, 2.0, 200.0, True, 32) == 0, "the target waits for it all the way"
    assert useful_credit(cost, 0.01, 2.0, 0.0, False, 32) == 0
    near, far = (useful_credit(cost, 0.95, 2.0, way, False, 64) for way in (0.0, 40.0))
    assert far > near


@given(st.floats(0.0, 0.999), st.integers(0, 20))
def test_expected_tokens_is_the_sum_of_chances(chance: float, drafts: int) -> None:
    assert expected_tokens(chance, drafts) == pytest.approx(sum(chance**i for i in range(1, drafts + 1)))


def test_branches_do_not_count_against_their_drafter() -> None:
    beliefs = AcceptanceEstimates({})
    for _ in range(200):
        beliefs.learn("d", 0.9, right=True)
        beliefs.learn("d", 0.08, right=False, first=False)
    assert beliefs.typical("d") > 0.95
    assert beliefs.chance("d", 0.08) < 0.05
    assert beliefs.calibrations["d"].agreement == 1.0


def test_what_a_liar_costs_before_he_is_known() -> None:
    """Full confidence, never right, on passes as dear as those of float weights, of which one row costs two."""
    cost = dict(enumerate((24.1, 24.1, 26.9, 29.7, 31.7, 33.7, 35.7, 37.8, 39.6, 41.5), 1)).__getitem__
    beliefs, passes = AcceptanceEstimates({}), 64
    spent = 0.0
    for _ in range(passes):
        chances = [beliefs.chance("liar", 1.0) ** (depth + 1) for depth in range(9)]
        drafts, _rate = best_cut(chances, cost)
        spent += cost(drafts + 1)
        if drafts:
            beliefs.learn("liar", 1.0, right=False)
    assert spent < 1.01 * passes * cost(1)


def test_a_session_corrects_what_all_sessions_believe_and_the_next_one_starts_afresh() -> None:
    shared: dict[str, Calibration] = {}
    easy = AcceptanceEstimates(shared)
    for _ in range(60):
        easy.learn("d", 0.8, right=True)
    hard = AcceptanceEstimates(shared)
    before = hard.typical("d")
    for _ in range(20):
        hard.learn("d", 0.8, right=False)
    assert hard.typical("d") < 0.5 * before
    assert AcceptanceEstimates(shared).typical("d") > hard.typical("d")


def test_doubt_is_to_a_drafters_advantage_and_fades() -> None:
    beliefs = AcceptanceEstimates({})
    assert beliefs.hoped("new") > beliefs.typical("new")
    for _ in range(300):
        beliefs.learn("new", 0.7, right=False)
    assert beliefs.hoped("new") < 0.1


def test_patience_has_an_end_even_with_a_trickle() -> None:
    drafter = AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False, token_ms=4.0, lead_ms=2.0)
    link = DrafterLink(credit=8, told_at=100.0)
    end = max(link.patience(drafter, depth) for depth in range(8))
    link.heard_at = 100.5
    assert link.patience(drafter, 3) <= end + 0.1
    assert link.expected(drafter, 3, 0.8, 101.0) is None


def test_a_resting_or_late_drafter_is_not_expected() -> None:
    drafter = AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False)
    link = DrafterLink(credit=8, told_at=0.0)
    assert link.expected(drafter, 0, 0.8, 0.001) is not None
    link.resting = True
    assert link.expected(drafter, 0, 0.8, 0.001) is None
    link.resting, link.late = False, 2
    assert link.expected(drafter, 0, 0.8, 0.001) is None


@given(st.floats(0.0, 0.999), st.floats(0.1, 50.0), st.integers(1, 32))
def test_the_floor_stays_between_its_bounds(chance: float, token_ms: float, window: int) -> None:
    assert FLOOR_LEAST <= least_chance(cost, chance, token_ms, 1.0, window) <= FLOOR_MOST


def test_slower_drafts_must_be_surer() -> None:
    quick, slow = (least_chance(cost, 0.95, token_ms, 1.0, 16) for token_ms in (0.5, 6.0))
    assert quick < slow


@pytest.mark.parametrize("way_ms", [0.0, 1.0])
@pytest.mark.parametrize("chance", [0.8, 0.9, 0.97])
def test_a_drafter_at_the_floor_makes_about_the_best_number_of_drafts(chance: float, way_ms: float) -> None:
    token_ms = 6.0
    floor = least_chance(cost, chance, token_ms, way_ms, 32)
    made = next(drafts for drafts in range(1, 33) if chance**drafts < floor)
    rates = {
        drafts: (1 + expected_tokens(chance, drafts)) / (bool(drafts) * way_ms + drafts * token_ms + cost(drafts + 1))
        for drafts in range(33)
    }
    assert rates[made] > 0.95 * max(rates.values())
