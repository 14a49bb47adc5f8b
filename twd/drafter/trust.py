"""How far a draft model's confidence can be trusted: a model very like the target may be unsure and still be right."""

import math
from dataclasses import dataclass
from typing import Final

_DECAY: Final = 0.99
_PRIOR_CHANCE: Final = 0.7
_PRIOR_WEIGHT: Final = 4.0
_LEAST, _MOST = 0.02, 2.0
_UNSURE: Final = 1e-4


@dataclass(slots=True)
class ConfidenceCalibration:
    """How often drafts were right over all sessions, compared with the model's confidence in them.

    The chance that a draft is accepted is modelled as a power of its confidence. The exponent is learned: 1 where the
    model's confidence is true, near 0 where it is right whatever its confidence.
    """

    right: float = _PRIOR_CHANCE * _PRIOR_WEIGHT
    checked: float = _PRIOR_WEIGHT
    doubt: float = -math.log(_PRIOR_CHANCE) * _PRIOR_WEIGHT

    def learn(self, confidence: float, right: bool) -> None:
        """Learn from a verified draft; all drafts before it were accepted."""
        self.right = self.right * _DECAY + right
        self.checked = self.checked * _DECAY + 1.0
        self.doubt = self.doubt * _DECAY - math.log(max(_UNSURE, min(1.0, confidence)))

    @property
    def exponent(self) -> float:
        """The exponent: how much of the model's doubt is real."""
        missed = -math.log(max(_UNSURE, min(1.0 - _UNSURE, self.right / self.checked)))
        return min(_MOST, max(_LEAST, missed * self.checked / max(self.doubt, _UNSURE)))

    def chance(self, confidences: float) -> float:
        """Returns the chance that drafts are all accepted whose confidences multiply to this."""
        return math.pow(max(0.0, min(1.0, confidences)), self.exponent)

    def least(self, chance: float) -> float:
        """Returns the product of confidences at which `chance` falls to this."""
        return math.pow(max(0.0, min(1.0, chance)), 1.0 / self.exponent)
