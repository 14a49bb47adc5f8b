"""How well given tokens fit, from the log probabilities that a server tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Final

TOP: Final = 5
"""How many of the most likely tokens of each position are asked for."""


@dataclass(frozen=True, slots=True)
class TokenWeight:
    """One given token: the model's own choice there, the log probabilities of both, and the entropy in nats."""

    choice: int
    choice_logprob: float
    logprob: float
    entropy: float


@dataclass(frozen=True, slots=True)
class PlaceChances:
    """What a server tells of one position: its own choice, and the log probabilities of some tokens."""

    choice: int
    chances: Mapping[int, float]

    def weight_of(self, token: int) -> TokenWeight | None:
        """The weight of a token; None if its log probability is not told, or one of them is no number. Tokens that are
        not told count as one in the entropy, so it is a lower bound."""
        if token not in self.chances or not all(map(isfinite, self.chances.values())):
            return None
        told = [min(0.0, chance) for chance in self.chances.values()]
        rest = max(0.0, 1.0 - sum(map(exp, told)))
        entropy = -sum(exp(chance) * chance for chance in told) - (rest * log(rest) if rest else 0.0)
        return TokenWeight(self.choice, max(self.chances.values()), self.chances[token], entropy)
