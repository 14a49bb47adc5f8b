"""Bounds of an error rate from audits, in an interval that is valid at every look. It bets against each rate. Pure.

A bettor who bets that the error rate is above m multiplies the stake by a likelihood ratio at each audit. If the rate
is m or less, the chance that the stake ever grows 1/alpha-fold is at most alpha (Ville's inequality). So each rate
against which a stake has grown that far is too low, now and at any later look.
"""

from dataclasses import dataclass
from math import exp, inf, log
from typing import Final

ALPHA: Final = 0.05
_RATIOS: Final = ((1.6, 0.15), (2.5, 0.35), (4.0, 0.35), (8.0, 0.15))
"""The odds of the true rate may be this many times those of the rate that is bet against, and the part of the stake on
each factor."""
_STEPS: Final = 40


def log_stake(audits: int, errors: int, rate: float) -> float:
    """Returns the logarithm of what a stake of 1 against this rate has become."""
    if rate <= 0.0:
        return inf if errors else 0.0
    return _log_sum(
        [
            log(part) + errors * log(better / rate) + (audits - errors) * log((1.0 - better) / (1.0 - rate))
            for ratio, part in _RATIOS
            if (better := _above(rate, ratio)) < 1.0
        ]
    )


def _above(rate: float, ratio: float) -> float:
    """Returns the rate whose odds are `ratio` times as high."""
    odds = ratio * rate / (1.0 - rate) if rate < 1.0 else inf
    return odds / (1.0 + odds) if odds < inf else 1.0


def _log_sum(logs: list[float]) -> float:
    if not logs:
        return 0.0
    highest = max(logs)
    return highest + log(sum(exp(one - highest) for one in logs))


@dataclass(slots=True)
class Audit:
    """The audited answers of one member, and the bounds of their error rate."""

    max_error: float
    audits: int = 0
    errors: int = 0
    low: float = 0.0
    high: float = 1.0
    broken: bool = False
    """True: the error rate is shown to be above `max_error`."""

    def learn(self, wrong: bool) -> None:
        """Add one audited answer."""
        self.audits += 1
        self.errors += wrong
        if log_stake(self.audits, self.errors, self.max_error) >= -log(ALPHA):
            self.broken = True
        self.low = max(self.low, _lowest(self.audits, self.errors))
        self.high = min(self.high, 1.0 - _lowest(self.audits, self.audits - self.errors))


def _lowest(audits: int, errors: int) -> float:
    """Returns the lowest rate that is not ruled out: the stake against it has not grown far enough."""
    low, high = 0.0, errors / audits
    if not errors or log_stake(audits, errors, 1e-9) < -log(ALPHA / 2):
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        ruled_out = middle <= 0.0 or log_stake(audits, errors, middle) >= -log(ALPHA / 2)
        low, high = (middle, high) if ruled_out else (low, middle)
    return low
