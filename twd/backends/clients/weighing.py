"""How well given tokens fit, from the log probabilities that a server tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
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


def weighed(chances: Mapping[int, float], token: int) -> TokenWeight:
    """The weight of `token`, which is one of `chances`. Tokens that are not told count as one in the entropy, so it is
    a lower bound."""
    best = max(chances.values())
    choice = min(one for one, chance in chances.items() if chance == best)
    told = [min(0.0, chance) for chance in chances.values()]
    rest = max(0.0, 1.0 - sum(map(exp, told)))
    entropy = -sum(exp(chance) * chance for chance in told) - (rest * log(rest) if rest else 0.0)
    return TokenWeight(choice, best, chances[token], entropy)
