"""Timing a slice: a width at a time, within a budget, and once for all slices of a model and all starts."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.ring.fake_slices import LAYERS, FakeSlice
from twd.engine.build import engine_build
from twd.engine.context import BatchTokens
from twd.engine.library import version
from twd.engine.slices.abort import AbortFlag
from twd.ring.frames import States
from twd.stage.server import HeldSlice
from twd.stage.timing import SliceTiming, measure, remembered
from twd.wire.base import ModelId
from twd.wire.model import CostPoint


def held(first: int, end: int) -> HeldSlice:
    return HeldSlice(ModelId("fake"), "f4ke", first, end, LAYERS, end == LAYERS)


def ticking(step: float) -> Iterator[float]:
    return (number * step for number in count())


@pytest.mark.parametrize(("first", "end"), [(0, 4), (2, 6), (4, LAYERS), (0, LAYERS)])
def test_every_kind_of_slice_is_timed_and_left_empty(first: int, end: int) -> None:
    engine = FakeSlice(first, end, head=end == LAYERS, window_max=16)
    clock = ticking(0.001)
    timing = measure(engine, held(first, end), lambda: next(clock))
    assert [point.width for point in timing.cost] == [1, 2, 4, 8, 16]
    assert timing.layer_ms == pytest.approx(1.0 / (end - first), abs=1e-3)
    assert not any(engine._sums)


def test_wide_passes_are_left_out_where_they_would_take_too_long() -> None:
    clock = ticking(0.4)
    timing = measure(FakeSlice(0, 4), held(0, 4), lambda: next(clock))
    assert [point.width for point in timing.cost] == [1, 2], "of one alone, no slope could be told"


class SlowSlice(FakeSlice):
    """Passes take what `cost` says, by the number of rows and how many passes of that width there were before."""

    def __init__(self, cost: Callable[[int, int], float]) -> None:
        super().__init__(0, 4, window_max=16)
        self.now = 0.0
        self._cost = cost
        self._before = Counter[int]()

    def decode(self, rows: BatchTokens, states: States | None = None, aborted: AbortFlag | None = None) -> States:
        self.now += self._cost(len(rows), self._before[len(rows)])
        self._before[len(rows)] += 1
        return super().decode(rows, states, aborted)


def told(engine: SlowSlice, *, makes_kernels: bool = False) -> list[tuple[int, float]]:
    timing = measure(engine, held(0, 4), lambda: engine.now, makes_kernels=makes_kernels)
    return [(point.width, round(point.ms, 2)) for point in timing.cost]


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_what_disturbs_one_pass_is_not_seen(width: int, turn: int) -> None:
    engine = SlowSlice(lambda rows, before: 0.001 * rows + (0.02 if (rows, before) == (width, turn) else 0.0))
    assert told(engine) == [(1, 1.0), (2, 2.0), (4, 4.0), (8, 8.0), (16, 16.0)]


def test_a_device_makes_its_kernels_for_a_width_before_that_is_timed() -> None:
    engine = SlowSlice(lambda rows, before: 0.1 if before == 0 else 0.001 * rows)
    assert told(engine, makes_kernels=True) == [(1, 1.0), (2, 2.0), (4, 4.0), (8, 8.0), (16, 16.0)]


def never() -> SliceTiming:
    raise AssertionError("measured anew")


def test_what_was_measured_is_measured_once(tmp_path: Path) -> None:
    first, folder = SliceTiming(4, False, 1.0, 0.0, [CostPoint(width=1, ms=4.0)]), tmp_path / "new"
    assert remembered(folder, ("a", "b"), held(0, 4), lambda: first) == first
    assert remembered(folder, ("a", "b"), held(0, 4), never) == first
    assert remembered(folder, ("a", "c"), held(0, 4), SliceTiming) == SliceTiming()
    for file in folder.iterdir():
        file.write_bytes(b"{")
    assert remembered(folder, ("a", "b"), held(0, 4), lambda: first) == first


def test_other_slices_of_a_model_are_worked_out_by_their_layers(tmp_path: Path) -> None:
    """So a machine that takes other layers while a ring serves disturbs nobody. A head must be timed once."""
    body = SliceTiming(4, False, 1.0, 0.0, [CostPoint(width=1, ms=4.0), CostPoint(width=8, ms=6.0)])
    assert remembered(tmp_path, ("a",), held(0, 4), lambda: body) == body
    half = SliceTiming(2, False, 1.0, 0.0, [CostPoint(width=1, ms=2.0), CostPoint(width=8, ms=3.0)])
    assert remembered(tmp_path, ("a",), held(4, 6), never) == half
    ending = SliceTiming(2, True, 1.0, 3.0, [CostPoint(width=1, ms=5.0), CostPoint(width=8, ms=10.0)])
    assert remembered(tmp_path, ("a",), held(LAYERS - 2, LAYERS), lambda: ending) == ending
    longer = SliceTiming(5, True, 1.0, 3.0, [CostPoint(width=1, ms=8.0), CostPoint(width=8, ms=16.0)])
    assert remembered(tmp_path, ("a",), held(LAYERS - 5, LAYERS), never) == longer
    without = SliceTiming(1, False, 1.0, 0.0, [CostPoint(width=1, ms=1.0), CostPoint(width=8, ms=2.0)])
    assert remembered(tmp_path, ("a",), held(1, 2), never) == without
    assert remembered(tmp_path, ("a",), held(0, 4), never) == body, "what was measured counts for more"


def test_a_disk_that_takes_nothing_keeps_no_stage_from_serving(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert remembered(tmp_path / "file", ("a", "b"), held(0, 4), lambda: SliceTiming(4, False, 1.0)) == SliceTiming(
        4, False, 1.0
    )


def test_a_build_is_named_in_one_line() -> None:
    assert version() in engine_build()
    assert "\n" not in engine_build()
