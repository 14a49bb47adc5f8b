"""How far a draft model's own doubts can be believed: a twin of the target may hesitate, and still be right."""

import math
from dataclasses import dataclass
from typing import Final

_DECAY: Final = 0.99
_PRIOR_CHANCE: Final = 0.7
_PRIOR_WEIGHT: Final = 8.0
_LEAST, _MOST = 0.02, 2.0
_UNSURE: Final = 1e-4


@dataclass(slots=True)
class ConfidenceCalibration:
    """What came of guesses over all sessions, beside what the model thought of them.

    The chance that a guess holds is taken as a power of the model's confidence. The exponent is learned: 1 where the
    model judges itself well, near 0 where it is right whatever it thinks.
    """

    right: float = _PRIOR_CHANCE * _PRIOR_WEIGHT
    checked: float = _PRIOR_WEIGHT
    doubt: float = -math.log(_PRIOR_CHANCE) * _PRIOR_WEIGHT

    def learn(self, confidence: float, right: bool) -> None:
        """The target decided at the place of a guess, everything before it having held."""
        self.right = self.right * _DECAY + right
        self.checked = self.checked * _DECAY + 1.0
        self.doubt = self.doubt * _DECAY - math.log(max(_UNSURE, min(1.0, confidence)))

    @property
    def exponent(self) -> float:
        """How much of the model's doubt is real."""
        missed = -math.log(max(_UNSURE, min(1.0 - _UNSURE, self.right / self.checked)))
        return min(_MOST, max(_LEAST, missed * self.checked / max(self.doubt, _UNSURE)))

    def chance(self, confidences: float) -> float:
        """The chance that guesses hold whose confidences multiply to this."""
        return math.pow(max(0.0, min(1.0, confidences)), self.exponent)
