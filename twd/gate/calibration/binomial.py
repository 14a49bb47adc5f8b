"""Exact bounds of an error rate from counted errors (Clopper and Pearson). Pure arithmetic."""

from functools import lru_cache
from math import exp, hypot, inf, lgamma, log
from typing import Final

_STEPS: Final = 60


def at_most(errors: int, trials: int, rate: float) -> float:
    """The probability of at most `errors` errors in `trials` trials at this error rate."""
    if errors >= trials or rate <= 0.0:
        return 1.0
    if rate >= 1.0:
        return 0.0
    return min(1.0, sum(exp(_log_chance(count, trials, rate)) for count in range(errors + 1)))


def _log_chance(count: int, trials: int, rate: float) -> float:
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    return ways + count * log(rate) + (trials - count) * log(1.0 - rate) if 0.0 < rate < 1.0 else -inf


@lru_cache(maxsize=65_536)
def upper_bound(errors: int, trials: int, confidence: float) -> float:
    """The highest error rate that is still possible at this confidence."""
    if trials == 0 or errors >= trials:
        return 1.0
    low, high = errors / trials, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(errors, trials, middle) > 1.0 - confidence else (low, middle)
    return high


def lower_bound(errors: int, trials: int, confidence: float) -> float:
    """The lowest error rate that is still possible at this confidence."""
    return 1.0 - upper_bound(trials - errors, trials, confidence)


def interval(errors: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The lower and the upper bound; together they hold at this confidence."""
    each = (1.0 + confidence) / 2
    return lower_bound(errors, trials, each), upper_bound(errors, trials, each)


def excess(errors: int, trials: int, chosen_errors: int, chosen: int, confidence: float = 0.95) -> tuple[float, float]:
    """By how much the error rate of all trials exceeds that of a chosen part of them: the lower and the upper bound, by
    the exact bounds of the part and of the rest (Newcombe).
    """
    rest, rest_errors = trials - chosen, errors - chosen_errors
    if not chosen or not rest:
        return (0.0, 0.0)
    ours, others = chosen_errors / chosen, rest_errors / rest
    low, high = interval(chosen_errors, chosen, confidence)
    other_low, other_high = interval(rest_errors, rest, confidence)
    least = others - ours - hypot(others - other_low, high - ours)
    most = others - ours + hypot(other_high - others, ours - low)
    return least * rest / trials, most * rest / trials


def trials_needed(errors: int, rate: float, confidence: float) -> int:
    """The smallest number of trials with `errors` errors that proves that the error rate is at most `rate`."""
    low, high = errors, max(16, errors + 1)
    while at_most(errors, high, rate) > 1.0 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_most(errors, middle, rate) > 1.0 - confidence else (low, middle)
    return high
