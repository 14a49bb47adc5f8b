"""Whether judging is cheaper than exact speculation, by the target's milliseconds for each. Pure."""

from dataclasses import dataclass, field
from typing import Final

TRIES: Final = 6
"""Answers of each kind that are measured before one kind is preferred."""
AGAIN: Final = 24
"""One request in this many uses the more expensive kind, to measure it again."""
_DECAY: Final = 0.95
_MARGIN: Final = 0.98
"""Judging must cost less than this share of exact speculation. At the same price, exact texts are better."""


@dataclass(slots=True)
class ServingWay:
    """The target's milliseconds and the tokens of one kind of answers."""

    count: int = 0
    ms: float = 0.0
    tokens: float = 0.0

    def learn(self, ms: float, tokens: int) -> None:
        """Add one answer."""
        self.count += 1
        self.ms = self.ms * _DECAY + ms
        self.tokens = self.tokens * _DECAY + tokens

    @property
    def token_ms(self) -> float | None:
        """The target's milliseconds for a token; None before anything is known."""
        return self.ms / self.tokens if self.tokens else None


@dataclass(slots=True)
class Economy:
    """The cost of judged and of exact answers, for one target."""

    judged: ServingWay = field(default_factory=ServingWay)
    exact: ServingWay = field(default_factory=ServingWay)
    _asked: int = 0

    def judging(self) -> bool:
        """Whether the next answer is to be judged instead of written by the target."""
        self._asked += 1
        if self.judged.count < TRIES or self.exact.count < TRIES:
            return self.judged.count <= self.exact.count
        usual = not self.pays
        return usual if self._asked % AGAIN == 0 else not usual

    @property
    def pays(self) -> bool:
        """Whether judging costs the target less than writing, as far as that is known."""
        judged, exact = self.judged.token_ms, self.exact.token_ms
        return judged is None or exact is None or judged < exact * _MARGIN
