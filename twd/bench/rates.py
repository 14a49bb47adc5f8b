"""The speed of several answers at once."""

from collections.abc import Sequence


def rate_together(times: Sequence[Sequence[float]]) -> float:
    """Return tokens per second over all texts, while all of them run; `times`: arrival second of each token."""
    begin, end = max(one[0] for one in times), min(one[-1] for one in times)
    made = sum(sum(begin < at <= end for at in one) for one in times)
    return made / (end - begin) if made else 0.0
