"""Where along a prompt states are saved, and which of them are kept."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twd.engine.rollback.checkpoints import PER_SLOT, Checkpoints, stops

MARK = 99
MARKS = frozenset({MARK})


def state(size: int = 10) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.zeros(size, np.uint8)


def test_the_latest_state_that_is_not_beyond_a_position_is_found() -> None:
    kept = Checkpoints(1000)
    for position in (300, 100, 200):
        kept.add(0, position, state())
    found = [kept.best(0, position) for position in (99, 100, 250, 900)]
    assert [one.position if one else None for one in found] == [None, 100, 200, 300]
    kept.forget(0, 200)
    last = kept.best(0, 900)
    assert last is not None
    assert last.position == 200
    assert kept.best(1, 900) is None


def test_what_would_cost_least_to_compute_again_goes_first() -> None:
    kept = Checkpoints(30)
    for position in (1000, 1010, 2000):
        kept.add(0, position, state())
    kept.add(1, 500, state())
    assert [one.position for one in kept._slots[0]] == [1000, 2000]
    assert kept.bytes_held == 30


def test_what_is_needed_outlives_what_nobody_asks_for() -> None:
    kept = Checkpoints(20)
    kept.add(0, 100, state())
    kept.add(1, 100, state())
    for _ in range(5):
        kept.use(0, 100)
    kept.add(2, 100, state())
    assert kept.best(0, 100) is not None
    assert kept.best(1, 100) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5000), st.integers(1, 40)), max_size=60))
def test_the_bounds_hold_whatever_is_kept(added: list[tuple[int, int, int]]) -> None:
    kept = Checkpoints(100)
    for slot, position, size in added:
        kept.add(slot, position, state(size))
        assert kept.bytes_held <= 100
        assert all(len(held) <= PER_SLOT for held in kept._slots.values())


def test_states_are_saved_at_the_borders_of_messages() -> None:
    prompt = [MARK, *[1] * 500, MARK, *[2] * 300, MARK, *[3] * 200, MARK, 4, 5]
    found = stops(prompt, 0, 0, MARKS, 64)
    assert {501, 802, 1003} <= set(found)


def test_states_are_saved_at_distances_that_grow_and_where_prompts_part() -> None:
    found = stops([1] * 4097, 0, 777, frozenset(), 64)
    assert found == [777, 2048, 3072, 3584, 3840]
    assert stops([1] * 60, 0, 0, frozenset(), 64) == []


@given(st.lists(st.sampled_from([1, 2, MARK]), min_size=1, max_size=3000), st.integers(0, 2999), st.integers(0, 2999))
def test_stops_are_few_rise_and_lie_within_what_is_read(prompt: list[int], cached: int, parted: int) -> None:
    cached = min(cached, len(prompt) - 1)
    found = stops(prompt, cached, parted, MARKS, 64)
    assert found == sorted(set(found))
    assert len(found) <= PER_SLOT
    assert all(cached < at < len(prompt) for at in found)
