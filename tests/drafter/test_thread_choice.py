"""Which number of threads is quickest is found out, and costs little to find out."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.drafter.thread_choice import FIRST, LONGEST, ThreadChoice


def drafted(choice: ThreadChoice, ms: Mapping[int, float], steps: int) -> list[int]:
    """So many steps; with how many threads each was computed."""
    used = []
    for _ in range(steps):
        used.append(choice.now)
        choice.observe(ms[choice.now])
    return used


def test_what_is_planned_comes_first() -> None:
    choice = ThreadChoice.of(planned=1, room=2, asked=0)
    assert set(drafted(choice, {1: 6.0, 2: 30.0}, FIRST)) == {1}


def test_one_that_is_quicker_takes_over() -> None:
    choice = ThreadChoice.of(planned=2, room=2, asked=0)
    used = drafted(choice, {1: 6.0, 2: 30.0}, 200)
    assert used[-1] == 1
    assert used.count(2) < 80


def test_when_things_change_it_goes_back() -> None:
    choice = ThreadChoice.of(planned=2, room=2, asked=0)
    drafted(choice, {1: 6.0, 2: 30.0}, 200)
    used = drafted(choice, {1: 6.0, 2: 3.5}, LONGEST + 200)
    assert used[-1] == 2


def test_of_several_each_is_tried() -> None:
    choice = ThreadChoice.of(planned=4, room=8, asked=0)
    assert set(drafted(choice, {1: 10.0, 4: 9.0, 8: 9.5}, 3000)) == {1, 4, 8}


def test_what_was_asked_for_stays() -> None:
    assert set(drafted(ThreadChoice.of(planned=2, room=8, asked=2), {2: 9.0}, 500)) == {2}


@pytest.mark.parametrize("room", [1, 2])
def test_where_there_is_no_choice_nothing_is_tried(room: int) -> None:
    choice = ThreadChoice.of(planned=1, room=1, asked=0)
    assert set(drafted(choice, {1: 5.0}, 500)) == {1}
    assert ThreadChoice.of(planned=room, room=room, asked=room).counts == (room,)


@given(st.floats(1.0, 50.0), st.floats(1.0, 50.0), st.floats(1.0, 50.0))
def test_tries_cost_a_bounded_share_of_the_time(one: float, four: float, eight: float) -> None:
    ms = {1: one, 4: four, 8: eight}
    choice = ThreadChoice.of(planned=4, room=8, asked=0)
    drafted(choice, ms, 5000)
    used = drafted(choice, ms, 5000)
    settled = max(set(used), key=used.count)
    assert sum(ms[count] for count in used) <= 1.05 * len(used) * ms[settled]
    assert ms[settled] <= 1.12 * min(ms.values())
