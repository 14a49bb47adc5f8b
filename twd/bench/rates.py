"""How fast several texts are made at once."""

from collections.abc import Sequence


def rate_together(times: Sequence[Sequence[float]]) -> float:
    """Tokens per second of all texts while all of them are being made; `times`: at which second each token came."""
    begin, end = max(one[0] for one in times), min(one[-1] for one in times)
    made = sum(sum(begin < at <= end for at in one) for one in times)
    return made / (end - begin) if made else 0.0
