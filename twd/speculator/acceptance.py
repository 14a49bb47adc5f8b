"""How far each drafter can be believed: learned from what the target took of its guesses."""

import math
from dataclasses import dataclass, field

BINS = 10
_DECAY = 0.995
_PRIOR_CHANCE = 0.7
_PRIOR_WEIGHT = 4.0
_RATE_WEIGHT = 2.0
_SESSION_WEIGHT = 6.0
_SESSION_DECAY = 0.98
_TEXTS_DIFFER = 8.0
"""So many guesses in other texts tell as much of this one as a guess in it."""


@dataclass(slots=True)
class Calibration:
    """A drafter's record over all sessions: what share of its guesses of each confidence was right."""

    taken: list[float] = field(default_factory=lambda: [0.0] * BINS)
    checked: list[float] = field(default_factory=lambda: [0.0] * BINS)
    firsts: float = 0.0
    """First choices that were checked: a branch off them is no guess of what comes next."""
    firsts_taken: float = 0.0

    def chance(self, confidence: float) -> float:
        """The measured chance of a guess of this confidence; a stranger's word counts, but never for certainty."""
        i = _bin(confidence)
        return (self.taken[i] + _PRIOR_WEIGHT * min(confidence, _PRIOR_CHANCE)) / (self.checked[i] + _PRIOR_WEIGHT)

    def learn(self, confidence: float, right: bool, first: bool = True) -> None:
        """A guess was checked, everything before it having held."""
        i = _bin(confidence)
        self.taken[i] = self.taken[i] * _DECAY + right
        self.checked[i] = self.checked[i] * _DECAY + 1.0
        if first:
            self.firsts = self.firsts * _DECAY + 1.0
            self.firsts_taken = self.firsts_taken * _DECAY + right

    @property
    def rate(self) -> float:
        """The share of its first choices that was right."""
        return (self.firsts_taken + _PRIOR_CHANCE * _RATE_WEIGHT) / (self.firsts + _RATE_WEIGHT)

    @property
    def agreement(self) -> float:
        """The same without any prior belief."""
        return self.firsts_taken / self.firsts if self.firsts else 0.0

    @property
    def weight(self) -> float:
        """How many first choices the record rests on."""
        return self.firsts


@dataclass(slots=True)
class SessionRecord:
    """One drafter's record in one session: some texts are easier than its calibration says, some harder."""

    expected: float = 0.0
    taken: float = 0.0
    weight: float = 0.0
    checked: int = 0
    right: int = 0

    @property
    def factor(self) -> float:
        """By what the calibrated chances must be multiplied for this text."""
        return min(1.25, (self.taken + _SESSION_WEIGHT) / (self.expected + _SESSION_WEIGHT))

    def learn(self, expected: float, right: bool) -> None:
        """A guess that was given this chance was checked."""
        self.expected = self.expected * _SESSION_DECAY + expected
        self.taken = self.taken * _SESSION_DECAY + right
        self.weight = self.weight * _SESSION_DECAY + 1.0
        self.checked += 1
        self.right += right


def _bin(confidence: float) -> int:
    return min(BINS - 1, max(0, int(confidence * BINS)))


@dataclass(slots=True)
class Beliefs:
    """What one session believes of its drafters: the shared calibrations, corrected by its own record."""

    calibrations: dict[str, Calibration]
    records: dict[str, SessionRecord] = field(default_factory=dict)

    def chance(self, drafter: str, confidence: float) -> float:
        """The chance that this guess holds if everything before it does."""
        calibration = self.calibrations.get(drafter)
        known = calibration.chance(confidence) if calibration else min(confidence, _PRIOR_CHANCE)
        record = self.records.get(drafter)
        return min(0.999, known * record.factor) if record else min(0.999, known)

    def learn(self, drafter: str, confidence: float, right: bool, first: bool = True) -> None:
        """A guess of this drafter was checked, its first choice at this place or a branch."""
        expected = self.chance(drafter, confidence)
        self.calibrations.setdefault(drafter, Calibration()).learn(confidence, right, first)
        self.records.setdefault(drafter, SessionRecord()).learn(expected, right)

    def typical(self, drafter: str) -> float:
        """The chance of a guess of this drafter that has not come yet."""
        calibration = self.calibrations.get(drafter)
        known = calibration.rate if calibration else _PRIOR_CHANCE
        record = self.records.get(drafter)
        return min(0.995, known * record.factor) if record else min(0.995, known)

    def hoped(self, drafter: str, tried: int = 0) -> float:
        """The same with the benefit of the doubt: a drafter is not given up for a few unlucky guesses.

        `tried`: cycles in which it was heard; where none of its guesses was worth a check, that tells as much.
        """
        chance = self.typical(drafter)
        record = self.records.get(drafter)
        calibration = self.calibrations.get(drafter)
        known = calibration.weight / _TEXTS_DIFFER if calibration else 0.0
        seen = max(record.weight if record else 0.0, tried) + known
        doubt = math.sqrt(chance * (1.0 - chance) / (seen + 2.0))
        return min(0.995, chance + doubt)
