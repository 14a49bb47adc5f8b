"""Finds out at load whether logits may stay on the device: if picks are the same to the bit, and take no longer."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import numpy as np

from twd.decoding.window import Logits
from twd.engine.context import BatchTokens, CacheLayout, Context
from twd.engine.device_rows.binding import LogitsPlace
from twd.engine.device_rows.choices import Choosers
from twd.engine.rpc.pool import PoolPlan
from twd.wire.failures import TwdError

_WIDE: Final = 8
_BUDGET_S: Final = 0.5
_TURNS_MAX: Final = 7
_CLOSE: Final = 1e-4
_Passes = Callable[[], Iterator[list[int]]]
"""Computes passes of fixed texts; gives the indexes of the tokens that have logits."""


class RowsTrial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. The times are of the passes of `_shapes`, with a pick behind each token that has logits."""

    stays: bool = False
    place: LogitsPlace = LogitsPlace.CARD
    home_ms: float = 0.0
    there_ms: float = 0.0
    blocks_ms: float = 0.0
    """Sampled picks of one pass, from blocks of the rows."""
    rows_ms: float = 0.0
    """The same from whole rows, which then come home."""
    problem: str = ""
    """Why logits come home, if it is not the time."""

    @property
    def by_blocks(self) -> bool:
        """Whether sampled picks look at blocks of a row first."""
        return self.blocks_ms <= self.rows_ms

    def leave(self, context: Context) -> None:
        """Leave logits where the trial found that they may stay."""
        if self.stays and context.leave_logits(self.place) and context.device_rows is not None:
            context.device_rows.use_blocks(self.by_blocks)

    def describe(self) -> str:
        """The result in words, for status; empty where there was nothing to try."""
        if not self.there_ms and not self.problem:
            return ""
        where = "with the worker" if self.place is LogitsPlace.FAR else "on the card"
        if self.stays:
            sampled = "" if self.by_blocks else "; sampled rows come home"
            return f"logits stay {where} ({self.there_ms:.2f} ms, {self.home_ms:.2f} at home{sampled})"
        return f"logits come home ({self.problem or f'{self.home_ms:.2f} ms, {self.there_ms:.2f} {where}'})"


@dataclass(slots=True)
class _Seen:
    """What passes gave, in one way."""

    rows: list[Logits] = field(default_factory=list)
    picks: list[int] = field(default_factory=list)
    sampled: list[list[int]] = field(default_factory=list)
    ms: float = 0.0


def logits_place(pool: PoolPlan | None, *, offloads: bool) -> LogitsPlace | None:
    """Where logits may stay. None: they are computed here, or on another machine's card; if that cannot compute what
    leaving them there takes, its worker ends."""
    if pool is None or not pool.away:
        return LogitsPlace.CARD if offloads else None
    if pool.head_here:
        return None
    if not pool.away[-1].endpoint:
        return LogitsPlace.CARD
    return LogitsPlace.FAR if pool.on_cpus else None


def try_device_rows(
    context: Context, place: LogitsPlace = LogitsPlace.CARD, compute: Callable[[BatchTokens], object] | None = None
) -> RowsTrial:
    """Try it; all sequences must be empty, and are so afterwards. Logits stay where they are computed from now on if
    that proved right and no slower. `compute`: computes a pass, where a batch alone does not suffice."""
    passes = partial(_passes, context, compute or context.decode)
    home = _seen(context, passes)
    if not context.leave_logits(place):
        return RowsTrial()
    blocks_ms = rows_ms = 0.0
    try:
        there = _seen(context, passes)
        problem = _difference(home, there) or _misjudged(context, passes, home)
        blocks_ms, rows_ms = (_sampled_ms(context, passes, by_blocks=by_blocks) for by_blocks in (True, False))
    except TwdError as error:  # of a graph that gives logits to more tokens, or passes in several parts
        there, problem = _Seen(), str(error)
        _clear(context)
    stays = not problem and (there.ms <= home.ms or place is LogitsPlace.ANYWHERE)
    found = RowsTrial(
        stays=stays,
        place=place,
        home_ms=round(home.ms, 4),
        there_ms=round(there.ms, 4),
        blocks_ms=round(blocks_ms, 4),
        rows_ms=round(rows_ms, 4),
        problem=problem,
    )
    found.leave(context)
    if not stays:
        context.fetch_logits()
    return found


def _difference(home: _Seen, there: _Seen) -> str:
    if any(not np.array_equal(one, other) for one, other in zip(home.rows, there.rows, strict=True)):
        return "they were others on the device"
    same = home.picks == there.picks and home.sampled == there.sampled
    return "" if same else "picks were others on the device"


def _misjudged(context: Context, passes: _Passes, home: _Seen) -> str:
    """Whether chances of picks, and second choices, are others than those of the logits."""
    rows, numbers = context.device_rows, iter(home.rows)
    assert rows is not None
    for outputs in passes():
        for row, logits in zip(outputs, numbers, strict=False):
            found, other = rows.pick(row, judges=2), logits.copy()
            other[found.token] = -np.inf
            chance = 1.0 / float(np.exp(logits - logits.max(), dtype=np.float64).sum())
            told = found.token >= 0 and (
                found.other != int(other.argmax()) or abs(found.sure - chance) > _CLOSE * chance
            )
            if told:
                return "chances were others on the device"
    return ""


def _seen(context: Context, passes: _Passes) -> _Seen:
    """All passes: once for the logits, then for the time, of which the least counts."""
    seen, choosers = _Seen(), Choosers(context)
    for outputs in passes():
        seen.sampled += [choosers.picks(row) for row in outputs]
        seen.rows += [context.logits(row).copy() for row in outputs]
    end, taken = time.perf_counter() + _BUDGET_S, list[float]()
    while not taken or (len(taken) < _TURNS_MAX and time.perf_counter() < end):
        began = time.perf_counter()
        seen.picks = [_pick(context, row) for outputs in passes() for row in outputs]
        taken.append((time.perf_counter() - began) * 1000)
    seen.ms = min(taken)
    return seen


def _sampled_ms(context: Context, passes: _Passes, *, by_blocks: bool) -> float:
    """The time of sampled picks after the widest pass, the least of some turns."""
    assert context.device_rows is not None
    context.device_rows.use_blocks(by_blocks)
    choosers, taken = Choosers(context), list[float]()
    end = time.perf_counter() + _BUDGET_S / 2
    while not taken or (len(taken) < _TURNS_MAX and time.perf_counter() < end):
        taken.append(max(choosers.first_ms(outputs) for outputs in passes()))
    return min(taken)


def _shapes(context: Context) -> Iterator[tuple[int, ...]]:
    """For each pass the tokens of each sequence: negative where only the last of them has logits."""
    wide = min(_WIDE, context.settings.ubatch)
    yield (1,)
    yield (wide,)
    yield (-wide,)
    if context.settings.sequences > 1 and context.settings.layout is not CacheLayout.STREAMS and wide > 1:
        yield 1, wide - 1


def _passes(context: Context, compute: Callable[[BatchTokens], object]) -> Iterator[list[int]]:
    vocabulary = context.model.vocab.size
    for shape in _shapes(context):
        rows = BatchTokens()
        for sequence, count in enumerate(shape):
            tokens = [(count + index) * 7919 % vocabulary for index in range(abs(count))]
            rows.add(sequence, 0, tokens, output_from=len(tokens) - 1 if count < 0 else 0)
        compute(rows)
        yield [row for row, wanted in enumerate(rows.outputs) if wanted]
        _clear(context)


def _clear(context: Context) -> None:
    for sequence in range(context.settings.sequences):
        context.clear(sequence)


def _pick(context: Context, row: int) -> int:
    peak = context.peak(row)
    return int(context.logits(row).argmax()) if peak is None else peak
