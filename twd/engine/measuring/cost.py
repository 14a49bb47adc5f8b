"""Measures at load how long forward passes of several sizes take."""

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import inf
from statistics import mean

from twd.engine.context import BatchTokens, Context
from twd.wire.model import CostPoint

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SHARED_WIDTHS = (48, 64)
"""Further widths where sessions may share passes of one width."""
_DEPTH = 32
_TURNS_MAX = 7
_AGAIN_MAX = 12


def measure_cost(
    context: Context,
    *,
    rows_min: int = 1,
    budget_s: float = 1.5,
    away: bool = False,
    reads: bool = False,
    more: Sequence[int] = (),
) -> list[CostPoint]:
    """Time passes of several widths (n_tokens) on the first sequence, which must be empty. It is emptied afterwards.

    Every width is timed at least once, and again while the budget in seconds lasts. The fastest time counts, because
    other programs can only make a pass slower; `CostCurve.observe` follows the load later. A width that seems slower
    than a wider one is timed again: passes would be padded, and never show that they need not be. With RPC workers
    (`away`), every width is used once before, because its first pass takes many times as long. If experts are read
    while the model computes (`reads`), each pass has other tokens, as in a text, and the mean counts. `more`: further
    widths.
    """
    room = min(context.settings.ubatch, context.settings.ctx_size - _DEPTH)
    widths = [width for width in (*WIDTHS, *more) if width <= room]
    taken: dict[int, list[float]] = {width: [] for width in widths}
    _pass(context, 0, min(_DEPTH, context.settings.ubatch))
    depth = context.end(0)
    for width in widths if away else (1,):
        _time_pass(context, depth, max(width, rows_min))
    end = time.perf_counter() + budget_s
    for turn in range(_TURNS_MAX):
        if turn and time.perf_counter() > end:
            break
        for width in widths:
            text = turn * len(widths) + width if reads else 0
            taken[width].append(_time_pass(context, depth, max(width, rows_min), text))
    end = time.perf_counter() + budget_s
    while not (reads or away) and time.perf_counter() < end and (doubted := doubtful(taken)):
        for width in doubted:
            taken[width].append(_time_pass(context, depth, max(width, rows_min)))
    context.clear(0)
    figure = mean if reads else min
    return _rising([CostPoint(width=width, ms=round(figure(times), 4)) for width, times in taken.items()], reads)


def doubtful(taken: Mapping[int, Sequence[float]]) -> list[int]:
    """The widths that never were as quick as a wider one, unless they had their chance often enough."""
    least = {width: min(times) for width, times in taken.items()}
    wider = {width: [ms for other, ms in least.items() if other > width] for width in taken}
    return [
        width
        for width, times in taken.items()
        if len(times) < _AGAIN_MAX and least[width] > min(wider[width], default=inf)
    ]


def _rising(points: list[CostPoint], reads: bool) -> list[CostPoint]:
    """Reading scatters: a wider pass costs at least as much as a narrower one."""
    if not reads:
        return points
    highest = accumulate((point.ms for point in points), max)
    return [CostPoint(width=point.width, ms=ms) for point, ms in zip(points, highest, strict=True)]


def _time_pass(context: Context, depth: int, rows: int, text: int = 0) -> float:
    began = time.perf_counter()
    _pass(context, depth, rows, text)
    context.logits(rows - 1)
    spent = (time.perf_counter() - began) * 1000
    if not context.rollback(0, depth):
        context.clear(0)
        _pass(context, 0, depth)
    return spent


def _pass(context: Context, at: int, count: int, text: int = 0) -> None:
    """`text`: one of many, which have no tokens in common."""
    rows = BatchTokens()
    vocabulary = context.model.vocab.size
    rows.add(0, at, [(at + index + 64 * text) * 7919 % vocabulary for index in range(count)])
    context.decode(rows)
