"""Passes use fewer threads while that is quicker, and all of them again afterwards; trials cost little."""

import ctypes
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.engine.kernels import any_kernels
from twd.engine.library import ggml
from twd.engine.pass_threads import threads_in_use

pytestmark = pytest.mark.skipif(not any_kernels(), reason="this build of llama.cpp has no kernels of ours")
Ms = Callable[[int], float]
"""What a pass takes with so many threads."""

_HANDLE = [ctypes.c_void_p]


class PassThreads:
    """The choice by itself, without passes."""

    def __init__(self, planned: int) -> None:
        self._handle = ggml("twd_thread_choice_new", [ctypes.c_int], ctypes.c_void_p)(planned)

    def begin(self, shape: int) -> int:
        """Return how many threads a pass of this shape is to use."""
        return int(ggml("twd_thread_choice_begin", [*_HANDLE, ctypes.c_uint64], ctypes.c_int)(self._handle, shape))

    def end(self, shape: int, used: int, ms: float) -> None:
        """Note what such a pass took with so many threads."""
        types = [*_HANDLE, ctypes.c_uint64, ctypes.c_int, ctypes.c_double]
        ggml("twd_thread_choice_end", types, None)(self._handle, shape, used, ms)

    def idle(self, cores: float) -> None:
        """Note how many cores were idle meanwhile."""
        ggml("twd_thread_choice_idle", [*_HANDLE, ctypes.c_double], None)(self._handle, cores)

    def close(self) -> None:
        """Free the memory."""
        ggml("twd_thread_choice_free", _HANDLE, None)(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def calm(threads: int) -> float:
    return 2.0 + 16.0 / threads


def one_core_taken(of: int) -> Ms:
    """Another program takes one of the cores: where all threads are used, they wait for the one that has none."""
    return lambda threads: calm(threads) * (4.0 if threads == of else 1.0)


@dataclass
class Played:
    """A machine whose passes take a played time."""

    choice: PassThreads
    planned: int
    noise: random.Random = field(default_factory=lambda: random.Random(1))
    last: int = 0

    def passes(self, ms: Ms, count: int, shapes: int = 3) -> float:
        """Run passes; returns how many times as long they took as with the best number of threads."""
        spent = best = 0.0
        for _ in range(count):
            shape = self.noise.randrange(shapes)
            self.last = self.choice.begin(shape)
            took = (1.0 + shape) * ms(self.last) * self.noise.uniform(1.0, 1.1)
            self.choice.end(shape, self.last, took)
            spent, best = spent + took, best + (1.0 + shape) * 1.05 * min(map(ms, range(1, self.planned + 1)))
        return spent / best


@pytest.mark.parametrize("planned", [2, 4, 8])
def test_a_machine_of_ones_own_uses_all_threads_and_trials_cost_little(planned: int) -> None:
    with PassThreads(planned) as choice:
        assert Played(choice, planned).passes(calm, 2000) < 1.03


@pytest.mark.parametrize("planned", [2, 4, 8])
def test_where_a_core_is_taken_fewer_are_used_and_all_again_when_it_is_free(planned: int) -> None:
    with PassThreads(planned) as choice:
        machine = Played(choice, planned)
        machine.passes(calm, 300)
        machine.passes(one_core_taken(planned), 300)
        used = [machine.last for _ in range(200) if machine.passes(one_core_taken(planned), 1)]
        assert sorted(used)[len(used) // 2] == planned - 1
        machine.passes(calm, 1500)
        used = [machine.last for _ in range(200) if machine.passes(calm, 1)]
        assert sorted(used)[len(used) // 2] == planned


@pytest.mark.parametrize("planned", [2, 4])
def test_a_core_that_is_idle_again_is_used_soon(planned: int) -> None:
    with PassThreads(planned) as choice:
        machine = Played(choice, planned)
        machine.passes(calm, 50)
        machine.passes(one_core_taken(planned), 100, shapes=1)
        assert machine.last == planned - 1
        choice.idle(0.1)
        machine.passes(one_core_taken(planned), 10, shapes=1)
        assert machine.last == planned - 1
        choice.idle(0.9)
        machine.passes(calm, 4, shapes=1)
        assert machine.last == planned


def test_cores_that_seem_idle_and_are_not_are_tried_within_the_bound() -> None:
    with PassThreads(2) as choice:
        machine = Played(choice, 2)
        machine.passes(one_core_taken(2), 400)
        over = 0.0
        for number in range(600):
            choice.idle(number % 2)
            over += machine.passes(one_core_taken(2), 1) - 1.0
        assert over / 600 < 0.06


def test_a_core_that_is_taken_from_the_begin_is_found_too() -> None:
    with PassThreads(2) as choice:
        machine = Played(choice, 2)
        machine.passes(one_core_taken(2), 400)
        assert machine.passes(one_core_taken(2), 400) < 1.1


def test_one_slow_pass_is_no_reason() -> None:
    with PassThreads(2) as choice:
        for number in range(40):
            used = choice.begin(7)
            assert used == 2
            choice.end(7, used, 500.0 if number % 20 == 19 else 10.0)


@given(st.integers(2, 64), st.lists(st.tuples(st.integers(0, 40), st.floats(0.5, 1e5)), max_size=300))
@examples(50)
def test_whatever_passes_take_there_is_a_thread_and_not_more_than_planned(
    planned: int, passes: list[tuple[int, float]]
) -> None:
    with PassThreads(planned) as choice:
        for shape, ms in passes:
            used = choice.begin(shape)
            assert 1 <= used <= planned
            choice.end(shape, used, ms)


def test_what_was_never_planned_is_used_as_planned() -> None:
    assert threads_in_use(61) == 61
