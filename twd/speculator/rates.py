"""Which is really quicker here and now: with a drafter on the target's own cores, or without it.

Costs and chances predict it; but cores that others use too make fools of predictions. So the outcome
itself is measured, with a few plain steps now and then for comparison.
"""

from dataclasses import dataclass, field

_DECAY = 0.97
_ENOUGH = 3.5
SAMPLE_STEPS = 3
SAMPLE_EVERY = 192
CLEAR, SELDOM = 1.25, 4
"""From this lead of the drafter on, plain steps are tried that much more seldom."""
MARGIN = 0.98


@dataclass(slots=True)
class Rate:
    """Tokens per millisecond, the latest counting most."""

    tokens: float = 0.0
    ms: float = 0.0
    weight: float = 0.0

    def add(self, tokens: int, ms: float) -> None:
        """One more cycle, from one acceptance to the next."""
        self.tokens = self.tokens * _DECAY + tokens
        self.ms = self.ms * _DECAY + ms
        self.weight = self.weight * _DECAY + 1.0

    @property
    def value(self) -> float:
        """The rate."""
        return self.tokens / self.ms if self.ms else 0.0

    @property
    def known(self) -> bool:
        """Whether it rests on more than a few cycles."""
        return self.weight >= _ENOUGH


@dataclass(slots=True)
class Race:
    """Both ways, measured in turn."""

    drafted: Rate = field(default_factory=Rate)
    plain: Rate = field(default_factory=Rate)
    _left: int = 0
    _since: int = SAMPLE_EVERY

    def add(self, with_drafter: bool, tokens: int, ms: float) -> None:
        """One cycle ended."""
        (self.drafted if with_drafter else self.plain).add(tokens, ms)
        if with_drafter:
            self._since += tokens
        elif self._left:
            self._left -= 1

    def wants_plain(self) -> bool:
        """Whether the next step should be plain, to have something to compare with."""
        pause = SAMPLE_EVERY * (SELDOM if self._known and self._ahead(CLEAR) else 1)
        if self._left == 0 and self._since >= pause:
            self._left, self._since = SAMPLE_STEPS + 1, 0
        return self._left > 0

    def try_again(self) -> None:
        """Forget how it went with the drafter, so that some cycles show it anew: what made it slow may be over."""
        self.drafted = Rate()

    @property
    def lost(self) -> bool:
        """Whether the drafter makes the text slower, as far as was measured."""
        return self._known and not self._ahead(MARGIN)

    @property
    def _known(self) -> bool:
        return self.drafted.known and self.plain.known

    def _ahead(self, margin: float) -> bool:
        return self.drafted.value >= margin * self.plain.value
