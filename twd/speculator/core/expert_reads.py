"""What a pass reads of experts from disk for the very tokens of its window, beside what such passes usually read.

Two windows of one width may cost very different times: each token may bring experts in. The cost curve knows only the
usual time of a width, so the difference is added.
"""

from collections.abc import Callable, Sequence

from twd.drafting.window_value import Cost

MissingMs = Callable[[Sequence[int]], Sequence[float]]
"""Tokens of a window -> milliseconds of reading for the first of them, for the first two, and so on; empty: unknown."""
_WEIGHT = 0.05
_LEAST = 0.5
"""Of the usual time, a window costs at least this share, whatever is in memory."""


class ExpertReads:
    """Learns what each row of a window usually adds, and corrects the cost of a window by its own tokens."""

    def __init__(self, missing_ms: MissingMs) -> None:
        self._missing_ms = missing_ms
        self._usual: list[float] = []
        """For each row, the milliseconds that it usually adds."""

    def cost(self, usual: Cost, tokens: Sequence[int]) -> Cost:
        """Return the cost of passes of the first rows of this window."""
        sums = self._missing_ms(tokens)
        if not sums:
            return usual
        self._learn(sums)
        expected = [0.0]
        for row in range(len(sums)):
            expected.append(expected[-1] + self._usual[row])
        others = [0.0, *(mine - theirs for mine, theirs in zip(sums, expected[1:], strict=True))]

        def corrected(rows: int) -> float:
            ms = usual(rows)
            return max(_LEAST * ms, ms + others[min(rows, len(others) - 1)])

        return corrected

    def _learn(self, sums: Sequence[float]) -> None:
        before = 0.0
        for row, ms in enumerate(sums):
            if row == len(self._usual):
                self._usual.append(ms - before)
            self._usual[row] += _WEIGHT * (ms - before - self._usual[row])
            before = ms
