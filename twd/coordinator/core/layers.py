"""How many layers each device of an order takes. Plain numbers in and out."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from twd.gguf_tools.slice_rules import CutPoints


def as_they_fit(costs: Sequence[int], rooms: Sequence[int], cuts: CutPoints) -> list[int]:
    """Return as many layers for each device as fit, cut only where allowed; fewer than all where no room is left."""
    total = len(costs)
    ends = _Ends([0, *accumulate(costs)], rooms, cuts)
    found = ends.greedy()
    if (
        found[-1:] != [total]
        and cuts.odd_counts
        and replace(ends, cuts=replace(cuts, odd_counts=())).greedy()[-1:] == [total]
    ):
        found = ends.complete() or found
    return _counts(found)


def quotas(split: Sequence[float], layers: int, multiple: int = 1) -> list[int]:
    """Return whole layers in proportion to the shares, cut at multiples; what rounding leaves goes to the largest
    fractions."""
    units = -(-layers // multiple)
    exact = [share / sum(split) * units for share in split]
    whole = [int(share) for share in exact]
    by_fraction = sorted(range(len(split)), key=lambda i: (whole[i] - exact[i], i))
    for index in by_fraction[: units - sum(whole)]:
        whole[index] += 1
    return _counts([min(layers, multiple * end) for end in accumulate(whole)])


def as_asked(costs: Sequence[int], rooms: Sequence[int], asked: Sequence[int]) -> list[int]:
    """Return the requested layers for each device, up to the first device that has no room for its number."""
    sums, ends = [0, *accumulate(costs)], list(accumulate(asked))
    found: list[int] = []
    for room, end in zip(rooms, ends, strict=True):
        first = found[-1] if found else 0
        found.append(min(end, _furthest(sums, first, room)))
        if found[-1] < end:
            break
    return _counts(found)


def refused(asked: Sequence[int], cuts: CutPoints) -> str:
    """Return why slices with these numbers of layers are not possible; empty where they are."""
    ends = [0, *accumulate(asked)]
    return next((why for first, end in pairwise(ends) if end > first and (why := cuts.why_not(first, end))), "")


def _counts(ends: Sequence[int]) -> list[int]:
    return [end - first for first, end in pairwise([0, *ends])]


def _furthest(sums: Sequence[int], first: int, room: int) -> int:
    return bisect_right(sums, sums[first] + room) - 1


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where slices may end on devices, one after the other. `sums` are the costs of all layers before each position."""

    sums: Sequence[int]
    rooms: Sequence[int]
    cuts: CutPoints

    def of(self, device: int, first: int) -> Iterator[int]:
        """Yield the possible ends, the furthest first; the last is `first` itself: a device without layers is always
        allowed."""
        for end in range(_furthest(self.sums, first, self.rooms[device]), first, -1):
            last = end == len(self.sums) - 1
            if (last or not end % self.cuts.multiple) and not self.cuts.why_not(first, end):
                yield end
        yield first

    def greedy(self) -> list[int]:
        """Return ends with as many layers on each device as possible."""
        found, first = [], 0
        for device in range(len(self.rooms)):
            first = next(self.of(device, first))
            found.append(first)
        return found

    def complete(self) -> list[int]:
        """Return ends with as many layers on each device as possible so that all layers are placed; empty where that is
        impossible."""
        total = len(self.sums) - 1
        good = [{total}]
        for device in reversed(range(len(self.rooms))):
            good.append({first for first in range(total + 1) if any(end in good[-1] for end in self.of(device, first))})
        good.reverse()
        if 0 not in good[0]:
            return []
        found, first = [], 0
        for device, after in enumerate(good[1:]):
            first = next(end for end in self.of(device, first) if end in after)
            found.append(first)
        return found
