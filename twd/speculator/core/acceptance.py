"""The chance that a draft is accepted, learned from what the target accepted of each drafter."""

import math
from dataclasses import dataclass, field

from twd.drafting.calibration import PRIOR_CHANCE, Calibration

_SESSION_WEIGHT = 6.0
_SESSION_DECAY = 0.98
_TEXTS_DIFFER = 8.0
"""This many drafts in other texts tell as much about this text as one draft in it."""


@dataclass(slots=True)
class SessionRecord:
    """One drafter's record in one session. It corrects the calibration, because some texts are easier and some are
    harder."""

    expected: float = 0.0
    taken: float = 0.0
    weight: float = 0.0
    checked: int = 0
    right: int = 0

    @property
    def factor(self) -> float:
        """The factor by which the calibrated chances are multiplied for this text."""
        return min(1.25, (self.taken + _SESSION_WEIGHT) / (self.expected + _SESSION_WEIGHT))

    def learn(self, expected: float, right: bool) -> None:
        """Learn from one verified draft: its expected chance, and whether it was accepted."""
        self.expected = self.expected * _SESSION_DECAY + expected
        self.taken = self.taken * _SESSION_DECAY + right
        self.weight = self.weight * _SESSION_DECAY + 1.0
        self.checked += 1
        self.right += right


@dataclass(slots=True)
class AcceptanceEstimates:
    """The chances that one session gives its drafters: the shared calibrations, corrected by its own record."""

    calibrations: dict[str, Calibration]
    records: dict[str, SessionRecord] = field(default_factory=dict)

    def chance(self, drafter: str, confidence: float) -> float:
        """Returns the chance that this draft is accepted if all drafts before it are."""
        calibration = self.calibrations.get(drafter)
        known = calibration.chance(confidence) if calibration else min(confidence, PRIOR_CHANCE)
        record = self.records.get(drafter)
        return min(0.999, known * record.factor) if record else min(0.999, known)

    def learn(self, drafter: str, confidence: float, right: bool, first: bool = True) -> None:
        """Learn from one verified draft. `first`: it was the drafter's first choice at this place, not a branch."""
        expected = self.chance(drafter, confidence)
        self.calibrations.setdefault(drafter, Calibration()).learn(confidence, right, first)
        self.records.setdefault(drafter, SessionRecord()).learn(expected, right)

    def typical(self, drafter: str) -> float:
        """Returns the chance of a draft of this drafter that has not arrived yet."""
        calibration = self.calibrations.get(drafter)
        known = calibration.rate if calibration else PRIOR_CHANCE
        record = self.records.get(drafter)
        return min(0.995, known * record.factor) if record else min(0.995, known)

    def hoped(self, drafter: str, tried: int = 0) -> float:
        """Returns the same chance plus its uncertainty, so that a drafter is not given up after a few unlucky drafts.

        `tried`: cycles in which drafts of it arrived. They count as evidence even where no draft was good enough to
        verify.
        """
        chance = self.typical(drafter)
        record = self.records.get(drafter)
        calibration = self.calibrations.get(drafter)
        known = calibration.weight / _TEXTS_DIFFER if calibration else 0.0
        seen = max(record.weight if record else 0.0, tried) + known
        doubt = math.sqrt(chance * (1.0 - chance) / (seen + 2.0))
        return min(0.995, chance + doubt)
