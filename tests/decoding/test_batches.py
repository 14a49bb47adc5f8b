"""Grouping windows into passes: nothing lost, nothing split, never over capacity, and cheap."""

from hypothesis import given
from hypothesis import strategies as st

from twd.decoding.batches import BatchPart, BatchPlanner, BatchRules, ForwardBatch, Shape, WidthPadding
from twd.wire.model import CostPoint

shapes = st.dictionaries(st.integers(0, 15), st.integers(1, 32), min_size=1, max_size=16).map(
    lambda rows: tuple(sorted(rows.items()))
)
rules = st.builds(
    BatchRules, capacity=st.integers(32, 128), streams=st.booleans(), can_pad=st.booleans(), rows_min=st.integers(1, 2)
)
paddings = st.builds(
    lambda costs, widest: WidthPadding(
        tuple(CostPoint(width=width, ms=costs[width]) for width in sorted(costs)), widest
    ),
    st.dictionaries(st.integers(1, 32), st.floats(0.1, 50.0)),
    st.sampled_from([0, 32]),
)


def planner_of(rule: BatchRules, padding: WidthPadding) -> BatchPlanner:
    planner = BatchPlanner(rule)
    planner.use_cost(planner.cost, padding)
    return planner


@given(shapes, rules, paddings)
def test_every_window_lies_whole_in_one_pass(shape: Shape, rule: BatchRules, padding: WidthPadding) -> None:
    passes = planner_of(rule, padding).plan(shape)
    placed = [(part.slot, part.rows) for one in passes for part in one.parts if part.rows]
    assert sorted(placed) == list(shape)
    assert all(one.rows <= rule.capacity for one in passes)


@given(shapes, rules, paddings)
def test_streams_get_neighbours_of_equal_width(shape: Shape, rule: BatchRules, padding: WidthPadding) -> None:
    for one in planner_of(rule, padding).plan(shape):
        if rule.streams:
            slots = [part.slot for part in one.parts]
            assert slots == list(range(slots[0], slots[0] + len(slots)))
            assert len({part.rows + part.padding for part in one.parts}) == 1


@given(shapes, rules, paddings)
def test_nothing_is_padded_where_nothing_can_be_taken_back(
    shape: Shape, rule: BatchRules, padding: WidthPadding
) -> None:
    passes = planner_of(rule, padding).plan(shape)
    if not rule.can_pad:
        assert all(part.padding == 0 for one in passes for part in one.parts)
    else:
        assert all(one.rows >= rule.rows_min for one in passes)


@given(shapes)
def test_no_plan_costs_more_than_window_by_window(shape: Shape) -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    spent = sum(planner.cost(one.rows) for one in planner.plan(shape))
    assert spent <= sum(planner.cost(rows) for _, rows in shape)


def test_plain_steps_of_many_sessions_are_one_pass() -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    assert planner.plan(tuple((slot, 1) for slot in range(16))) == [
        ForwardBatch(tuple(BatchPart(slot, 1) for slot in range(16)))
    ]


def test_a_gap_is_filled_where_that_is_cheaper_than_a_pass() -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    assert planner.plan(((0, 1), (2, 1))) == [ForwardBatch((BatchPart(0, 1), BatchPart(1, 0, 1), BatchPart(2, 1)))]
    assert len(planner.plan(((0, 1), (15, 1)))) == 2


def test_a_long_prefill_does_not_blow_up_its_neighbours() -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    passes = planner.plan(((0, 1), (1, 1), (2, 64), (3, 1), (4, 1)))
    assert sorted(one.rows for one in passes) == [5, 64]


def test_one_lone_row_is_doubled_for_float_weights() -> None:
    assert BatchPlanner(BatchRules(capacity=64, rows_min=2)).plan(((3, 1),)) == [ForwardBatch((BatchPart(3, 1, 1),))]
    assert BatchPlanner(BatchRules(capacity=64, rows_min=2)).plan(((3, 1), (4, 1)))[0].rows == 2


def test_measured_costs_change_the_plan() -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    shape = ((0, 1), (8, 1))
    assert len(planner.plan(shape)) == 2
    planner.use_cost(lambda rows: 100.0 + rows)
    assert len(planner.plan(shape)) == 1


UNEVEN = WidthPadding(
    tuple(CostPoint(width=w, ms=ms) for w, ms in ((1, 10.0), (2, 19.5), (8, 21.0), (16, 23.1), (24, 8.8)))
)
"""As measured once: a GPU takes other kernels from 17 rows on, which suit these matrices far better."""


def test_rows_are_thrown_away_where_more_of_them_are_quicker() -> None:
    assert [UNEVEN.rows(rows) for rows in (1, 2, 8, 23, 24, 25)] == [24, 24, 24, 24, 24, 25]
    assert [point.ms for point in UNEVEN.costs()] == [8.8] * 5
    planner = BatchPlanner(BatchRules(capacity=64))
    planner.use_cost(lambda rows: 8.8, UNEVEN)
    assert planner.plan(((3, 5),)) == [ForwardBatch((BatchPart(3, 5, 19),))]
    assert planner.missing(7) == 17


def test_sessions_that_share_a_pass_are_padded_alike() -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    planner.use_cost(lambda rows: 8.8, UNEVEN)
    (one,) = planner.plan(tuple((slot, 1) for slot in range(6)))
    assert [(part.rows, part.padding) for part in one.parts] == [(1, 3)] * 6


@given(st.dictionaries(st.integers(1, 64), st.floats(0.1, 50.0), min_size=1), st.integers(1, 80), st.integers(1, 8))
def test_a_detour_is_a_wider_pass_that_is_measured_and_quicker(costs: dict[int, float], rows: int, slots: int) -> None:
    padding = WidthPadding(tuple(CostPoint(width=width, ms=costs[width]) for width in sorted(costs)))
    total = rows * slots
    wide = padding.rows(total, slots)
    assert wide >= total
    assert wide % slots == 0
    assert wide == total or wide <= max(costs)


def test_even_costs_need_no_detour() -> None:
    rising = WidthPadding(tuple(CostPoint(width=width, ms=5.0 + width) for width in (1, 2, 4, 8, 16, 32)))
    assert all(rising.rows(rows) == rows for rows in range(1, 40))


@given(shapes, st.integers(1, 32))
def test_passes_of_one_width_have_one_window_each(shape: Shape, width: int) -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    planner.fix_rows(width)
    passes = planner.plan(tuple((slot, min(rows, width)) for slot, rows in shape))
    assert len(passes) == len(shape)
    assert all(one.rows == width and len(one.parts) == 1 for one in passes)


@given(shapes, st.integers(1, 16), st.integers(1, 4))
def test_sessions_share_passes_of_one_width(shape: Shape, width: int, together: int) -> None:
    planner = BatchPlanner(BatchRules(capacity=64))
    planner.fix_rows(width, together)
    wanted = {slot: min(rows, width) for slot, rows in shape}
    passes = planner.plan(tuple(sorted(wanted.items())))
    assert len(passes) == len({slot // together for slot in wanted})
    found = {part.slot: part.rows for one in passes for part in one.parts if part.rows}
    assert found == wanted
    for one in passes:
        slots = [part.slot for part in one.parts]
        assert slots == list(range(slots[0], slots[0] + together))
        assert all(part.rows + part.padding == width for part in one.parts)
    for slot, rows in wanted.items():
        (alone,) = planner.plan(((slot, rows),))
        assert planner.alone(slot, rows) == alone


@given(shapes)
def test_passes_are_not_of_one_width_where_nothing_can_be_taken_back(shape: Shape) -> None:
    planner = BatchPlanner(BatchRules(capacity=64, can_pad=False))
    planner.fix_rows(32)
    assert planner.plan(shape) == [ForwardBatch((BatchPart(slot, rows),)) for slot, rows in shape]


def test_over_rpc_lone_windows_have_measured_widths_only() -> None:
    """The first pass of a width costs a dozen ways there and back, so there are few widths."""
    points = tuple(CostPoint(width=width, ms=40.0 + width) for width in (1, 2, 4, 8, 16, 32))
    away = WidthPadding(points, widest=64)
    assert [away.rows(rows) for rows in (1, 3, 5, 9, 17, 33, 64, 65)] == [1, 4, 8, 16, 32, 64, 64, 65]
    assert away.rows(6, unit=2) == 6, "several sessions share a pass as they come"
    planner = BatchPlanner(BatchRules(capacity=64))
    planner.use_cost(lambda rows: 40.0 + rows, away)
    assert planner.plan(((2, 5),)) == [ForwardBatch((BatchPart(2, 5, 3),))]
