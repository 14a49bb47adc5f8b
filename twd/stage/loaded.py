"""What the service needs of a slice in memory."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from twd.engine.context import Rows
from twd.kit.kept import file_name, recall, remember
from twd.kit.progress import Progress
from twd.stage.engine import SliceEngine
from twd.stage.server import Slice
from twd.wire.model import CostPoint

_WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64)
_LEAST: Final = 2
"""So many widths are timed however long it takes: of one alone, more rows would seem to cost nothing."""
_TURNS: Final = 3
_BUDGET_S: Final = 1.5


class Timing(msgspec.Struct, frozen=True):
    """Measured times of a slice."""

    layer_ms: float = 0.0
    head_ms: float = 0.0
    cost: list[CostPoint] = []


@dataclass(frozen=True)
class LoadedSlice:
    """A slice that is ready to work."""

    held: Slice
    engine: SliceEngine
    timing: Timing
    build: str = ""
    settings: str = ""
    load_ms: int = 0


Load = Callable[[Progress], LoadedSlice]
"""Loads the slice, telling its progress; runs on a thread of its own."""


def measure(engine: SliceEngine, held: Slice, clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Time passes of some widths, the wide ones only while the budget lasts; the engine is empty before and after."""
    spent_until, cost = clock() + _BUDGET_S, list[CostPoint]()
    for width in _widths(engine):
        if len(cost) >= _LEAST and clock() + 2 * (1 + _TURNS) * cost[-1].ms / 1000 > spent_until:
            break
        cost.append(CostPoint(width=width, ms=round(_timed(engine, held, width, clock, output=True), 4)))
    silent = _timed(engine, held, engine.rows_min, clock, output=False) if held.head else cost[0].ms
    layers = max(held.end - held.first, 1)
    return Timing(round(silent / layers, 4), round(max(cost[0].ms - silent, 0.0), 4) if held.head else 0.0, cost)


def _widths(engine: SliceEngine) -> Iterator[int]:
    most = min(engine.window_max, engine.ctx_size)
    return (width for width in _WIDTHS if engine.rows_min <= width <= most)


def _timed(engine: SliceEngine, held: Slice, width: int, clock: Callable[[], float], *, output: bool) -> float:
    """Milliseconds of one pass; the first of several warms up."""
    rows = Rows()
    rows.add(0, 0, [1] * width, 0 if output else width)
    states = None if held.first == 0 else np.full((width, engine.n_embd), 0.01, np.float32)
    took = []
    for _ in range(1 + _TURNS):
        began = clock()
        engine.decode(rows, states)
        took.append((clock() - began) * 1000)
        if not engine.rollback(0, 0):
            engine.clear(0)
    return min(took[1:])


def remembered(folder: Path, about: tuple[str, ...], take: Callable[[], Timing]) -> Timing:
    """What was measured under the same circumstances before, or is measured now: a stage that replaces a lost one
    must be quick."""
    path = folder / file_name("stage", about)
    timing = recall(path, Timing)
    if timing is None:
        timing = take()
        remember(path, timing)
    return timing
