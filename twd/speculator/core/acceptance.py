"""How far each drafter can be believed: learned from what the target took of its guesses."""

import math
from dataclasses import dataclass, field

from twd.drafting.calibration import PRIOR_CHANCE, Calibration

_SESSION_WEIGHT = 6.0
_SESSION_DECAY = 0.98
_TEXTS_DIFFER = 8.0
"""So many guesses in other texts tell as much of this one as a guess in it."""


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


@dataclass(slots=True)
class AcceptanceEstimates:
    """What one session believes of its drafters: the shared calibrations, corrected by its own record."""

    calibrations: dict[str, Calibration]
    records: dict[str, SessionRecord] = field(default_factory=dict)

    def chance(self, drafter: str, confidence: float) -> float:
        """The chance that this guess holds if everything before it does."""
        calibration = self.calibrations.get(drafter)
        known = calibration.chance(confidence) if calibration else min(confidence, PRIOR_CHANCE)
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
        known = calibration.rate if calibration else PRIOR_CHANCE
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
