"""How often drafts of each confidence were right."""

from dataclasses import dataclass, field

BINS = 10
PRIOR_CHANCE = 0.7
_DECAY = 0.995
_PRIOR_WEIGHT = 4.0
_RATE_WEIGHT = 2.0


@dataclass(slots=True)
class Calibration:
    """A record over all texts: the share of right drafts for each confidence."""

    taken: list[float] = field(default_factory=lambda: [0.0] * BINS)
    checked: list[float] = field(default_factory=lambda: [0.0] * BINS)
    firsts: float = 0.0
    """First choices that were verified. Branches do not count, as they do not guess the likeliest token."""
    firsts_taken: float = 0.0

    def chance(self, confidence: float) -> float:
        """Returns the measured chance of a draft of this confidence. Of an unknown drafter the reported confidence
        counts, but only up to PRIOR_CHANCE."""
        i = _bin(confidence)
        return (self.taken[i] + _PRIOR_WEIGHT * min(confidence, PRIOR_CHANCE)) / (self.checked[i] + _PRIOR_WEIGHT)

    def learn(self, confidence: float, right: bool, first: bool = True) -> None:
        """Learn from a verified draft; all drafts before it were accepted."""
        i = _bin(confidence)
        self.taken[i] = self.taken[i] * _DECAY + right
        self.checked[i] = self.checked[i] * _DECAY + 1.0
        if first:
            self.firsts = self.firsts * _DECAY + 1.0
            self.firsts_taken = self.firsts_taken * _DECAY + right

    @property
    def rate(self) -> float:
        """The share of first choices that was right, with a prior."""
        return (self.firsts_taken + PRIOR_CHANCE * _RATE_WEIGHT) / (self.firsts + _RATE_WEIGHT)

    @property
    def agreement(self) -> float:
        """The same share without a prior."""
        return self.firsts_taken / self.firsts if self.firsts else 0.0

    @property
    def weight(self) -> float:
        """How many first choices the record counts, with their decay."""
        return self.firsts


def _bin(confidence: float) -> int:
    return min(BINS - 1, max(0, int(confidence * BINS)))
