"""The cost curve: between its points, beyond them, and how it learns."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.decoding.cost import CostCurve
from twd.engine.context import Context, ContextSettings
from twd.engine.measuring.cost import WIDTHS, measure_cost
from twd.engine.model import LoadedGguf
from twd.wire.failures import TwdError
from twd.wire.model import CostPoint


def curve(*points: tuple[int, float]) -> CostCurve:
    return CostCurve(CostPoint(width=width, ms=ms) for width, ms in points)


times = st.lists(st.floats(0.1, 500), min_size=len(WIDTHS), max_size=len(WIDTHS))


def test_straight_lines_between_points_and_beyond() -> None:
    one = curve((1, 4.0), (2, 6.0), (4, 8.0))
    assert [one.ms(rows) for rows in (1, 2, 3, 4, 6)] == [4.0, 6.0, 7.0, 8.0, 10.0]
    assert one.ms(0) == 4.0


def test_a_single_point_is_a_flat_curve() -> None:
    assert curve((1, 5.0)).ms(10) == 5.0


def test_no_points_are_refused() -> None:
    with pytest.raises(TwdError, match="at least one point"):
        CostCurve([])


@given(times, st.lists(st.tuples(st.integers(1, 64), st.floats(0.01, 1e5)), max_size=30))
def test_more_rows_never_cost_less_whatever_is_observed(ms: list[float], seen: list[tuple[int, float]]) -> None:
    one = curve(*zip(WIDTHS, ms, strict=True))
    for rows, observed in seen:
        one.observe(rows, observed)
    expected = [one.ms(rows) for rows in range(1, 65)]
    assert all(left <= right * (1 + 1e-9) for left, right in itertools.pairwise(expected))
    assert expected[0] > 0


@given(times, st.integers(1, 32), st.floats(0.1, 500))
def test_observing_the_same_time_again_and_again_leads_there(ms: list[float], rows: int, truth: float) -> None:
    one = curve(*zip(WIDTHS, ms, strict=True))
    for _ in range(300):
        one.observe(rows, truth)
    assert one.ms(rows) == pytest.approx(truth, rel=0.05)


def test_one_hiccup_moves_it_little() -> None:
    one = curve((1, 4.0), (8, 12.0))
    one.observe(1, 4000.0)
    assert one.ms(1) < 4.5


def test_a_busier_machine_moves_widths_that_were_not_seen_too() -> None:
    one = curve((1, 4.0), (8, 12.0))
    for _ in range(50):
        one.observe(1, 8.0)
    assert one.ms(8) > 18.0
    assert one.points()[1].ms == pytest.approx(one.ms(8), abs=1e-3)


def test_a_place_that_is_slower_than_was_measured_is_learned_beside_the_others() -> None:
    one = curve((2, 18.0), (4, 20.0), (8, 28.0), (16, 42.0))
    for _ in range(400):
        one.observe(2, 18.0)
        one.observe(8, 36.0)
    assert one.ms(2) == pytest.approx(18.0, rel=0.08)
    assert one.ms(8) == pytest.approx(36.0, rel=0.08)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.floats(1.0, 1000.0)), max_size=60))
def test_more_rows_keep_their_price_whatever_few_rows_seem_to_cost(seen: list[tuple[int, float]]) -> None:
    one = curve((2, 18.0), (4, 20.0), (8, 28.0), (16, 42.0), (32, 70.0))
    for rows, ms in seen:
        one.observe(rows, ms)
    assert one.ms(32) >= 1.3 * one.ms(8)
    assert one.ms(64) >= 1.3 * one.ms(32)


@pytest.mark.model
def test_measured_points_cover_the_widths_and_leave_nothing(q4: LoadedGguf) -> None:
    with Context(q4, ContextSettings(ctx_size=256, threads=1)) as context:
        points = measure_cost(context, budget_s=0.0)
        assert [point.width for point in points] == list(WIDTHS)
        assert all(point.ms > 0 for point in points)
        assert context.end(0) == 0


@pytest.mark.model
def test_a_small_context_is_measured_as_far_as_it_goes(q4: LoadedGguf) -> None:
    with Context(q4, ContextSettings(ctx_size=48, threads=1, ubatch=32)) as context:
        assert [point.width for point in measure_cost(context, budget_s=0.0)] == [1, 2, 3, 4, 6, 8, 12, 16]
