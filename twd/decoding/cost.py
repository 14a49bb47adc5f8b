"""The cost curve of passes by n_tokens: measured at load, corrected by every later pass."""

from bisect import bisect_left
from collections.abc import Iterable
from math import exp, log

from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import CostPoint

_SCALE_WEIGHT = 0.1
_POINT_WEIGHT = 0.05
_OUTLIER = 2.0
_FADE = 0.995
_SLOPE_KEPT = 0.5


class CostCurve:
    """Milliseconds of a pass by its n_tokens: measured points with straight lines between them, never falling.

    An observed time moves the whole curve a little (the machine may be busier now), and the points next to it a little
    more. An outlier counts as at most twice, and at least half, the expected time. The correction of a single point
    fades. Corrections keep at least half of the measured slope; otherwise more tokens could seem to cost nothing, and
    only computing them would show the error.
    """

    def __init__(self, points: Iterable[CostPoint]) -> None:
        ordered = sorted(points, key=lambda point: point.width)
        if not ordered or ordered[0].width < 1:
            raise TwdError(FailureCode.INTERNAL, "a cost curve needs at least one point of width 1 or more")
        self._widths = [point.width for point in ordered]
        self._measured: list[float] = []
        for point in ordered:
            self._measured.append(max(point.ms, 1e-3, *self._measured[-1:]))
        self._bends = [0.0] * len(ordered)
        """For each point, the logarithm of (learned time / measured time)."""
        self._times = list(self._measured)
        self._scale = 1.0
        self._places: dict[int, tuple[int, int, float]] = {}

    def ms(self, rows: int) -> float:
        """The expected time in ms of a pass of `rows` tokens."""
        left, right, share = self._places.get(rows) or self._place(rows)
        times = self._times
        return self._scale * (times[left] * (1.0 - share) + times[right] * share)

    def observe(self, rows: int, ms: float) -> None:
        """Learn from a pass of `rows` tokens that took `ms`."""
        ratio = min(max(ms / self.ms(rows), 1 / _OUTLIER), _OUTLIER)
        self._scale *= ratio**_SCALE_WEIGHT
        left, right, share = self._place(rows)
        self._bends = [bend * _FADE for bend in self._bends]
        for point, weight in ((left, 1.0 - share), (right, share)):
            if 0.0 < weight <= 1.0:
                self._bends[point] += _POINT_WEIGHT * weight * log(ratio)
        self._times = self._bent()

    def points(self) -> list[CostPoint]:
        """The curve as it is now."""
        return [CostPoint(width=width, ms=round(self.ms(width), 4)) for width in self._widths]

    def _place(self, rows: int) -> tuple[int, int, float]:
        """Two points, and how much the second counts; beyond the last one the last slope goes on."""
        place = bisect_left(self._widths, rows)
        if place == 0 or len(self._widths) == 1:
            found = (0, 0, 0.0)
        else:
            right = min(place, len(self._widths) - 1)
            left = right - 1
            found = (left, right, (rows - self._widths[left]) / (self._widths[right] - self._widths[left]))
        self._places[rows] = found
        return found

    def _bent(self) -> list[float]:
        times: list[float] = []
        before = self._measured[0]
        for measured, bend in zip(self._measured, self._bends, strict=True):
            least = times[-1] + _SLOPE_KEPT * (measured - before) if times else 0.0
            times.append(max(measured * exp(bend), least))
            before = measured
        return times
