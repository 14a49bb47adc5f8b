"""Timing a slice: a width at a time, within a budget, and once for all starts."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.ring.fake_slices import LAYERS, FakeSlice
from twd.engine.build import engine_build
from twd.stage.loaded import Timing, measure, remembered
from twd.stage.server import Slice
from twd.wire.base import ModelId
from twd.wire.model import CostPoint


def held(first: int, end: int) -> Slice:
    return Slice(ModelId("fake"), "f4ke", first, end, LAYERS, end == LAYERS)


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


def test_what_was_measured_is_measured_once(tmp_path: Path) -> None:
    first = Timing(1.0, 2.0, [CostPoint(width=1, ms=3.0)])
    assert remembered(tmp_path / "new", ("a", "b"), lambda: first) == first
    assert remembered(tmp_path / "new", ("a", "b"), Timing) == first
    assert remembered(tmp_path / "new", ("a", "c"), Timing) == Timing()
    for file in (tmp_path / "new").iterdir():
        file.write_bytes(b"{")
    assert remembered(tmp_path / "new", ("a", "b"), lambda: first) == first


def test_a_disk_that_takes_nothing_keeps_no_stage_from_serving(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert remembered(tmp_path / "file", ("a", "b"), lambda: Timing(1.0)) == Timing(1.0)


def test_a_build_is_named_in_one_line() -> None:
    assert engine_build() == engine_build()
    assert "\n" not in engine_build()
