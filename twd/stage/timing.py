"""Times of passes over a slice: measured once, and cached for the next start."""

import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from twd.engine.context import BatchTokens
from twd.kit.json_cache import file_name, recall, remember
from twd.process.measuring_turn import MeasuringTurns
from twd.stage.engine import SliceEngine
from twd.stage.server import HeldSlice
from twd.wire.model import CostPoint

_WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64)
_LEAST: Final = 2
"""Widths that are measured at least, however long it takes: with only one, more rows would seem to cost nothing."""
_ROUNDS: Final = 4
_BUDGET_S: Final = 0.6
_KERNELS_BUDGET_S: Final = 1.5
"""Seconds of the budget where a device builds its kernels for a width at its first use."""


class SliceTiming(msgspec.Struct, frozen=True):
    """Measured milliseconds of a slice of `layers` layers, with or without the head."""

    layers: int = 0
    head: bool = False
    layer_ms: float = 0.0
    head_ms: float = 0.0
    cost: list[CostPoint] = []

    def of(self, held: HeldSlice) -> "SliceTiming | None":
        """Estimate the times of another slice of the same model here; None where the head was never measured but is
        needed."""
        if not self.layers or (held.head and not self.head):
            return None
        layers = held.end - held.first
        whole_ms = self.layer_ms * self.layers + self.head_ms
        wanted_ms = self.layer_ms * layers + (self.head_ms if held.head else 0.0)
        share = wanted_ms / whole_ms if whole_ms else 1.0
        cost = [CostPoint(width=point.width, ms=round(point.ms * share, 4)) for point in self.cost]
        return SliceTiming(layers, held.head, self.layer_ms, self.head_ms if held.head else 0.0, cost)


def measure(
    engine: SliceEngine, held: HeldSlice, clock: Callable[[], float] = time.perf_counter, *, makes_kernels: bool = False
) -> SliceTiming:
    """Measure passes of all widths in turn, two rounds and more while the budget lasts; return the shortest time of
    each width.

    In turn, so that a short disturbance on the machine does not hit the same width each time. Half of the budget
    decides up to which width passes are measured. The engine is empty before and after.
    """
    passes, narrow = _Passes(engine, held, clock), engine.rows_min
    half = (_KERNELS_BUDGET_S if makes_kernels else _BUDGET_S) / 2
    passes.time(narrow)
    began, widths = clock(), list[int]()
    for width in _widths(engine):
        if len(widths) >= _LEAST and clock() - began + 2 * passes.ms[widths[-1]] / 1000 > half:
            break
        widths.append(width)
        for _ in range(2 if makes_kernels else 1):
            passes.time(width)
    for turn in range(1, _ROUNDS):
        if turn > 1 and clock() - began > 2 * half:
            break
        if held.head:
            passes.time(narrow, output=False)
        for width in widths:
            passes.time(width)
    least = passes.ms[narrow]
    silent = min(passes.silent_ms, least)
    layers = held.end - held.first
    cost = [CostPoint(width=width, ms=round(passes.ms[width], 4)) for width in widths]
    return SliceTiming(layers, held.head, round(silent / max(layers, 1), 4), round(least - silent, 4), cost)


def remembered(folder: Path, about: tuple[str, ...], held: HeldSlice, take: Callable[[], SliceTiming]) -> SliceTiming:
    """Return the times measured before under the same conditions, of this slice or else of another one of the model;
    else measure now. A stage that replaces a lost one must be quick, and one that changes its layers must not disturb
    running sessions."""
    own, any_slice = (folder / file_name("slice", parts) for parts in ((*about, str(held)), about))
    timing = recall(own, SliceTiming)
    if timing is None and (other := recall(any_slice, SliceTiming)) is not None:
        timing = other.of(held)
    if timing is not None:
        return timing
    with MeasuringTurns().measuring() as undisturbed:
        timing = take()
    if undisturbed:
        remember(own, timing)
        remember(any_slice, timing)
    return timing


def _widths(engine: SliceEngine) -> list[int]:
    most = min(engine.window_max, engine.ctx_size)
    return [width for width in _WIDTHS if engine.rows_min <= width <= most]


class _Passes:
    """Runs passes over a slice, and keeps the shortest time of each width."""

    def __init__(self, engine: SliceEngine, held: HeldSlice, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._first = held.first == 0
        self._clock = clock
        self.ms: dict[int, float] = {}
        self.silent_ms = inf
        """Milliseconds of the narrowest pass without output."""

    def time(self, width: int, *, output: bool = True) -> None:
        """Measure one pass; its rows are removed again."""
        rows = BatchTokens()
        rows.add(0, 0, [1] * width, 0 if output else width)
        states = None if self._first else np.full((width, self._engine.n_embd), 0.01, np.float32)
        began = self._clock()
        self._engine.decode(rows, states)
        took = (self._clock() - began) * 1000
        if not self._engine.rollback(0, 0):
            self._engine.clear(0)
        if output:
            self.ms[width] = min(took, self.ms.get(width, inf))
        else:
            self.silent_ms = min(took, self.silent_ms)
