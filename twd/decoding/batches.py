"""Groups windows into forward passes.

With separate KV streams, llama.cpp computes only neighbouring sequences with the same number of tokens together. The
rest gets passes of its own. So this module groups and pads windows by the cost of tokens and passes. "Rows" are the
tokens of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import attrgetter

from twd.wire.model import CostPoint

Shape = tuple[tuple[int, int], ...]
"""(slot, n_tokens) of each window, in the order of the slots."""
_CHEAPER = 0.9
"""Padding is used only if the padded pass costs less than this share of the cost without padding."""


@dataclass(frozen=True, slots=True)
class BatchPart:
    """The part of a pass for one slot: `rows` tokens of its window (0: no window), then `padding` unused tokens."""

    slot: int
    rows: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The parts of one forward pass."""

    parts: tuple[BatchPart, ...]

    @property
    def rows(self) -> int:
        """n_tokens of the pass, padding included."""
        return sum(part.rows + part.padding for part in self.parts)


@dataclass(frozen=True, slots=True)
class BatchRules:
    """The limits of a context, in tokens of a pass.

    `capacity`: most tokens. `streams`: each sequence has its own KV buffer. `can_pad`: padding can be removed after a
    pass. `rows_min`: fewest tokens. `rows_fixed` (0: none): with `can_pad`, every pass has exactly this many tokens of
    each of `together` neighbouring slots, so that a device uses the same kernels for all passes.
    """

    capacity: int
    streams: bool = True
    can_pad: bool = True
    rows_min: int = 1
    rows_fixed: int = 0
    together: int = 1


@dataclass(frozen=True, slots=True)
class WidthPadding:
    """Finds batch sizes that are faster than smaller ones. Some devices change kernels at some sizes. Over RPC, the
    first pass of each new size costs about twelve round trips.
    """

    points: tuple[CostPoint, ...] = ()
    widest: int = 0
    """Over RPC: a pass with one window is padded to a measured size, or else to this one. 0: not over RPC."""

    def rows(self, rows: int, unit: int = 1) -> int:
        """The fastest n_tokens that holds `rows` tokens; where padding is added it is a multiple of `unit`."""
        if self.widest and unit == 1 and rows <= self.widest:
            known = [point for point in self.points if point.width >= rows]
            return min(known, key=attrgetter("ms")).width if known else self.widest
        if not self.points or rows > self.points[-1].width:
            return rows
        places = (-(-point.width // unit) * unit for point in self.points if point.width > rows)
        best = min((place for place in places if place <= self.points[-1].width), key=self._ms, default=rows)
        return best if self._ms(best) < _CHEAPER * self._ms(rows) else rows

    def costs(self) -> list[CostPoint]:
        """The cost of passes in ms, padding included."""
        return [CostPoint(width=point.width, ms=self._ms(self.rows(point.width))) for point in self.points]

    def _ms(self, rows: int) -> float:
        left = max(
            (point for point in self.points if point.width <= rows), key=attrgetter("width"), default=self.points[0]
        )
        right = min((point for point in self.points if point.width >= rows), key=attrgetter("width"))
        span = right.width - left.width
        return left.ms + (right.ms - left.ms) * (rows - left.width) / span if span > 0 else right.ms


def guessed_cost(rows: int) -> float:
    """An assumed cost of a pass before anything is measured. The unit is the cost of one more token."""
    return 3.0 + rows


@dataclass(slots=True)
class BatchPlanner:
    """Groups windows into passes, and caches the plans by shape."""

    rules: BatchRules
    cost: Callable[[int], float] = guessed_cost
    padding: WidthPadding = field(default_factory=WidthPadding)
    _plan: Callable[[Shape], list[ForwardBatch]] = field(init=False)

    def __post_init__(self) -> None:
        self._plan = lru_cache(maxsize=512)(self._find)

    def use_cost(self, cost: Callable[[int], float], padding: WidthPadding | None = None) -> None:
        """Use measured costs from now on."""
        self.cost, self.padding = cost, padding or WidthPadding()
        self._plan = lru_cache(maxsize=512)(self._find)

    def fix_rows(self, rows: int, together: int = 1) -> None:
        """From now on, every pass has this many tokens of each of `together` slots, which divides their number."""
        self.rules = replace(self.rules, rows_fixed=rows, together=together)
        self._plan = lru_cache(maxsize=512)(self._find)

    def missing(self, rows: int) -> int:
        """How many padding tokens a pass of `rows` tokens gets."""
        if not self.rules.can_pad:
            return 0
        return (self.rules.rows_fixed or max(self.rules.rows_min, self.padding.rows(rows))) - rows

    def alone(self, slot: int, rows: int) -> ForwardBatch:
        """The pass that computes `rows` tokens of one slot and nothing else that counts."""
        if self.rules.rows_fixed:
            return self._blocks(((slot, rows),))[0]
        return self._filled(((slot, rows),))

    def plan(self, shape: Shape) -> list[ForwardBatch]:
        """The cheapest passes found for these windows. No window is split between passes."""
        return self._plan(shape)

    def _find(self, shape: Shape) -> list[ForwardBatch]:
        if self.rules.rows_fixed:
            return self._blocks(shape)
        if not self.rules.streams:
            return [self._filled(group) for group in _fill(shape, self.rules.capacity)]
        plans = [self._intervals(shape)]
        for limit in sorted({rows for _, rows in shape})[:-1]:
            narrow = tuple(item for item in shape if item[1] <= limit)
            wide = tuple(item for item in shape if item[1] > limit)
            plans.append(self._intervals(narrow) + self._intervals(wide))
        return min(plans, key=lambda passes: sum(self.cost(one.rows) for one in passes))

    def _blocks(self, shape: Shape) -> list[ForwardBatch]:
        """Passes of one width: each block of neighbouring slots has its own, in which slots without a window are
        padded."""
        rows_of, together = dict(shape), self.rules.together
        blocks = sorted({slot // together for slot in rows_of})
        return [
            ForwardBatch(tuple(self._padded(slot, rows_of.get(slot, 0)) for slot in range(at, at + together)))
            for at in (block * together for block in blocks)
        ]

    def _padded(self, slot: int, rows: int) -> BatchPart:
        return BatchPart(slot, rows, self.missing(rows))

    def _intervals(self, shape: Shape) -> list[ForwardBatch]:
        """The cheapest split of the windows into groups of neighbours. Each group is padded to its longest window."""
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(shape) + 1):
            best.append(min((best[start][0] + self._price(shape[start:end]), start) for start in range(end)))
        passes: list[ForwardBatch] = []
        end = len(shape)
        while end:
            start = best[end][1]
            passes.append(self._block(shape[start:end]))
            end = start
        return passes[::-1]

    def _price(self, run: Shape) -> float:
        width = max(rows for _, rows in run)
        slots = run[-1][0] - run[0][0] + 1
        if len(run) > 1:
            even = slots == len(run) and all(rows == width for _, rows in run)
            if slots * width > self.rules.capacity or not (even or self.rules.can_pad):
                return float("inf")
        return self.cost(max(slots * width, self.rules.rows_min))

    def _block(self, run: Shape) -> ForwardBatch:
        width = max(rows for _, rows in run)
        rows_of = dict(run)
        first, last = run[0][0], run[-1][0]
        slots = last - first + 1
        if self.rules.can_pad:
            width = self.padding.rows(slots * width, slots) // slots
        parts = tuple(
            BatchPart(slot, rows_of.get(slot, 0), width - rows_of.get(slot, 0)) for slot in range(first, last + 1)
        )
        return self._at_least(parts)

    def _filled(self, group: Shape) -> ForwardBatch:
        return self._at_least(tuple(BatchPart(slot, rows) for slot, rows in group))

    def _at_least(self, parts: tuple[BatchPart, ...]) -> ForwardBatch:
        head, are_even = parts[0], self.rules.streams and len(parts) > 1  # and then stay so
        missing = 0 if are_even else self.missing(ForwardBatch(parts).rows)
        return (
            ForwardBatch((BatchPart(head.slot, head.rows, head.padding + missing), *parts[1:]))
            if missing
            else ForwardBatch(parts)
        )


def _fill(shape: Sequence[tuple[int, int]], capacity: int) -> list[Shape]:
    """Fill passes with windows of any length, in order, up to `capacity` tokens each."""
    groups: list[list[tuple[int, int]]] = []
    free = 0
    for slot, rows in shape:
        if not groups or rows > free:
            groups.append([])
            free = capacity
        groups[-1].append((slot, rows))
        free -= rows
    return [tuple(group) for group in groups]
