"""Grouping windows into passes: nothing lost, nothing split, never over capacity, and cheap."""

from hypothesis import given
from hypothesis import strategies as st

from twd.engine.passes import Part, Pass, PassRules, Planner, Shape

shapes = st.dictionaries(st.integers(0, 15), st.integers(1, 32), min_size=1, max_size=16).map(
    lambda rows: tuple(sorted(rows.items()))
)
rules = st.builds(
    PassRules, capacity=st.integers(32, 128), streams=st.booleans(), can_pad=st.booleans(), rows_min=st.integers(1, 2)
)


@given(shapes, rules)
def test_every_window_lies_whole_in_one_pass(shape: Shape, rule: PassRules) -> None:
    passes = Planner(rule).plan(shape)
    placed = [(part.slot, part.rows) for one in passes for part in one.parts if part.rows]
    assert sorted(placed) == list(shape)
    assert all(one.rows <= rule.capacity for one in passes)


@given(shapes, rules)
def test_streams_get_neighbours_of_equal_width(shape: Shape, rule: PassRules) -> None:
    for one in Planner(rule).plan(shape):
        if rule.streams:
            slots = [part.slot for part in one.parts]
            assert slots == list(range(slots[0], slots[0] + len(slots)))
            assert len({part.rows + part.padding for part in one.parts}) == 1


@given(shapes, rules)
def test_nothing_is_padded_where_nothing_can_be_taken_back(shape: Shape, rule: PassRules) -> None:
    passes = Planner(rule).plan(shape)
    if not rule.can_pad:
        assert all(part.padding == 0 for one in passes for part in one.parts)
    else:
        assert all(one.rows >= rule.rows_min for one in passes)


@given(shapes)
def test_no_plan_costs_more_than_window_by_window(shape: Shape) -> None:
    planner = Planner(PassRules(capacity=64))
    spent = sum(planner.cost(one.rows) for one in planner.plan(shape))
    assert spent <= sum(planner.cost(rows) for _, rows in shape)


def test_plain_steps_of_many_sessions_are_one_pass() -> None:
    planner = Planner(PassRules(capacity=64))
    assert planner.plan(tuple((slot, 1) for slot in range(16))) == [Pass(tuple(Part(slot, 1) for slot in range(16)))]


def test_a_gap_is_filled_where_that_is_cheaper_than_a_pass() -> None:
    planner = Planner(PassRules(capacity=64))
    assert planner.plan(((0, 1), (2, 1))) == [Pass((Part(0, 1), Part(1, 0, 1), Part(2, 1)))]
    assert len(planner.plan(((0, 1), (15, 1)))) == 2


def test_a_long_prefill_does_not_blow_up_its_neighbours() -> None:
    planner = Planner(PassRules(capacity=64))
    passes = planner.plan(((0, 1), (1, 1), (2, 64), (3, 1), (4, 1)))
    assert sorted(one.rows for one in passes) == [5, 64]


def test_one_lone_row_is_doubled_for_float_weights() -> None:
    assert Planner(PassRules(capacity=64, rows_min=2)).plan(((3, 1),)) == [Pass((Part(3, 1, 1),))]
    assert Planner(PassRules(capacity=64, rows_min=2)).plan(((3, 1), (4, 1)))[0].rows == 2


def test_measured_costs_change_the_plan() -> None:
    planner = Planner(PassRules(capacity=64))
    shape = ((0, 1), (8, 1))
    assert len(planner.plan(shape)) == 2
    planner.use_cost(lambda rows: 100.0 + rows)
    assert len(planner.plan(shape)) == 1
