"""Whether judging is cheaper than exact speculation: by what both took of the target's time. Pure."""

from dataclasses import dataclass, field
from typing import Final

TRIES: Final = 6
"""Answers of each way that are measured before one is preferred."""
AGAIN: Final = 24
"""The way that costs more is taken once in so many requests, to see whether that still holds."""
_DECAY: Final = 0.95
_MARGIN: Final = 0.98
"""Judging must be cheaper by this much: where it is not, texts are exact for the same price."""


@dataclass(slots=True)
class ServingWay:
    """What answers of one way took of the target."""

    count: int = 0
    ms: float = 0.0
    tokens: float = 0.0

    def learn(self, ms: float, tokens: int) -> None:
        """One more answer."""
        self.count += 1
        self.ms = self.ms * _DECAY + ms
        self.tokens = self.tokens * _DECAY + tokens

    @property
    def token_ms(self) -> float | None:
        """Of the target's time, for a token; None before anything is known."""
        return self.ms / self.tokens if self.tokens else None


@dataclass(slots=True)
class Economy:
    """Judged answers beside exact ones, of one target."""

    judged: ServingWay = field(default_factory=ServingWay)
    exact: ServingWay = field(default_factory=ServingWay)
    _asked: int = 0

    def judging(self) -> bool:
        """Whether the next answer is to be judged rather than written by the target."""
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
