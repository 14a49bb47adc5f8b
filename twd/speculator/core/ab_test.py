"""Measures whether text comes faster with drafters or without them.

Costs and chances predict it, but the predictions are wrong where others use the same cores, devices and links. So the
real rate is measured, with a few plain steps (without drafters) from time to time for comparison.
"""

from dataclasses import dataclass, field
from typing import Self

_STEADY, _BRISK = 0.99, 0.9
"""Decay of the rates. Drafters bring tokens in bursts, so many cycles count. Plain steps are alike, but get slower as
the text grows."""
_ENOUGH = 4
"""Cycles with drafters that must be measured before their rate counts."""
SAMPLE_STEPS, SAMPLE_LEAST = 4, 2
"""Plain steps in a row for one comparison, and how many are enough where drafters lead by far."""
BURSTS = 12
"""Plain steps for one comparison where a plain step may bring several tokens or one."""
_QUICKER, _QUICKER_TIMES = 0.8, 4
"""A GPU gets fast only after some similar steps. While a plain step takes less than this share of the one before, the
earlier steps are discarded and the comparison starts again, at most this many times."""
SAMPLE_EVERY = 192
_FIRST = 32
"""Tokens before the first comparison: drafters should not rest at the start of a session."""
_FIRST_MS, _FIRST_CYCLES = 500.0, 8
"""Or so much time with drafters, and so many cycles: one that only takes the target's time rests within a second."""
GREAT, CLEAR = 2.0, 1.25
SELDOM = {GREAT: 16, CLEAR: 4}
"""Lead of the drafters (factor) -> how many times rarer plain steps are tried."""
_DEAR = 100
"""Restarting drafters may cost at most one part in this many of the time."""
MARGIN = 0.98
DOUBT = 2.0
"""Doubt: this number divided by the measured cycles. The true rate may be better by that much, so few cycles show only
great losses."""
PAUSE, PAUSE_MAX = 48, 1024
"""Tokens after which drafters that lost are tried again, and the longest such pause."""
TRY_COSTS = 50
"""Drafters that lost rest this many times as long as their last try took longer than plain steps."""
_PROVEN = 32
"""Cycles after which a lead is not chance."""


@dataclass(slots=True)
class TokenRate:
    """Tokens per millisecond; the latest cycles count most."""

    decay: float
    tokens: float = 0.0
    ms: float = 0.0
    cycles: int = 0

    def add(self, tokens: int, ms: float) -> None:
        """Add one cycle, from one acceptance to the next."""
        self.tokens = self.tokens * self.decay + tokens
        self.ms = self.ms * self.decay + ms
        self.cycles += 1

    @property
    def value(self) -> float:
        """Tokens per millisecond; 0: nothing measured."""
        return self.tokens / self.ms if self.ms else 0.0


@dataclass(slots=True)
class SpeculationABTest:
    """The measured rates with drafters and without, and when to measure which."""

    decay: float = _BRISK
    """Decay of the rate of plain steps."""
    steps: int = SAMPLE_STEPS
    least: int = SAMPLE_LEAST
    drafted: TokenRate = field(default_factory=lambda: TokenRate(_STEADY))
    plain: TokenRate = field(init=False)
    _left: int = 0
    _step_ms: float = 0.0
    _quickened: int = 0
    _since: int = SAMPLE_EVERY - _FIRST
    _rested: int = 0
    _pause: int = PAUSE

    def __post_init__(self) -> None:
        self.plain = TokenRate(self.decay)

    @classmethod
    def in_bursts(cls) -> Self:
        """A test for texts of which much is known without drafters: there plain steps are not alike either."""
        return cls(_STEADY, BURSTS, BURSTS // 2)

    def add(self, with_drafters: bool, tokens: int, ms: float) -> None:
        """Add a cycle that ended: its tokens and its milliseconds."""
        if not with_drafters and tokens == 1:
            self._warm_up(ms)
        (self.drafted if with_drafters else self.plain).add(tokens, ms)
        if with_drafters:
            self._step_ms, self._quickened = 0.0, 0
            self._since += tokens
            self._rested = 0
            if self.drafted.cycles >= _PROVEN and self._ahead(1.0):
                self._pause = PAUSE
            return
        self._rested += tokens
        self._left = max(0, self._left - 1)
        if self._left <= self.steps - self.least and self._known and self._ahead(GREAT):
            self._left = 0

    def _warm_up(self, ms: float) -> None:
        if ms < _QUICKER * self._step_ms and self._quickened < _QUICKER_TIMES:
            self.plain = TokenRate(self.decay)
            self._left = self.steps + 1
            self._quickened += 1
        self._step_ms = ms

    def wants_plain(self, restart_ms: float = 0.0) -> bool:
        """Returns whether the next step should be plain: drafters lost, or a comparison is due.

        `restart_ms`: the time after plain steps until drafts arrive again.
        """
        if self._rested >= self._pause and self.lost:
            self._look_again()
        just_lost = self._rested == 0 and self.lost
        if just_lost or (self._left == 0 and self._due(restart_ms)):
            self._left, self._since = self.steps, 0
        if just_lost and self._pause > PAUSE:  # the first time it is tried again soon
            self._pause = min(PAUSE_MAX, max(self._pause, int(TRY_COSTS * self._lost_tokens)))
        return self.is_plain

    def _due(self, restart_ms: float) -> bool:
        """Returns whether plain steps should be measured now."""
        if not self.plain.cycles and self.drafted.cycles >= _FIRST_CYCLES and self.drafted.ms >= _FIRST_MS:
            return True
        return self._since >= SAMPLE_EVERY and self._since >= self._between(restart_ms)

    @property
    def _lost_tokens(self) -> float:
        """How many more tokens plain steps would have made in the time of the steps with drafters."""
        return max(0.0, self.drafted.ms * self.plain.value - self.drafted.tokens)

    @property
    def is_plain(self) -> bool:
        """Whether steps are plain for now."""
        return self._left > 0 or (self._rested < self._pause and self.lost)

    def _look_again(self) -> None:
        """Measure drafters anew: what made them slow may be over. The pause until the next try doubles."""
        self.drafted, self._since, self._rested = TokenRate(_STEADY), 0, 0
        self._pause = min(PAUSE_MAX, 2 * self._pause)

    def try_again(self) -> None:
        """Forget the measured rate with drafters, because a new drafter is there."""
        self.drafted, self._pause = TokenRate(_STEADY), PAUSE

    @property
    def usual_rate(self) -> float:
        """Tokens per millisecond with drafters; 0: not known yet."""
        return self.drafted.value if self.drafted.cycles >= _ENOUGH else 0.0

    @property
    def lost(self) -> bool:
        """Whether drafters make the text slower, as far as it was measured."""
        return self._known and not self._ahead(MARGIN - DOUBT / self.drafted.cycles)

    def _between(self, restart_ms: float) -> float:
        """Returns the tokens from one comparison to the next, at least SAMPLE_EVERY."""
        if not self.plain.cycles:
            return SAMPLE_EVERY
        most = SELDOM[GREAT] * SAMPLE_EVERY
        times = next((times for lead, times in SELDOM.items() if self._known and self._ahead(lead)), 1)
        return min(most, times * max(SAMPLE_EVERY, _DEAR * restart_ms * self.drafted.value))

    @property
    def _known(self) -> bool:
        return self.drafted.cycles >= _ENOUGH and self.plain.cycles > 0

    def _ahead(self, margin: float) -> bool:
        return self.drafted.value >= margin * self.plain.value
