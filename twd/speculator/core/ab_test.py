"""Which is really quicker here and now: with drafters at work, or without them.

Costs and chances predict it; but cores, devices and links that others use too make fools of predictions. So
the outcome itself is measured, with a few plain steps now and then for comparison.
"""

from dataclasses import dataclass, field
from typing import Self

_STEADY, _BRISK = 0.99, 0.9
"""What drafters bring comes in bursts, so many cycles count; plain steps are alike, and slower as the text grows."""
_ENOUGH = 4
"""Cycles before which nothing is known of drafters: they come one after the other."""
SAMPLE_STEPS, SAMPLE_LEAST = 4, 2
"""Plain steps in a row to compare with, and how many show a great lead."""
BURSTS = 12
"""So many of them where they bring several tokens at a time, or one."""
_QUICKER, _QUICKER_TIMES = 0.8, 4
"""A GPU needs some steps alike to be as quick as it can: while a plain step is that much quicker than the one before,
the earlier ones count for nothing, and as many more are taken."""
SAMPLE_EVERY = 192
_FIRST = 32
"""Tokens before the first of them: a session's start is no time to rest."""
GREAT, CLEAR = 2.0, 1.25
SELDOM = {GREAT: 16, CLEAR: 4}
"""From which lead of the drafters on plain steps are tried how many times more seldom."""
_DEAR = 100
"""Getting drafters going again costs no more than one part in so many of the time."""
MARGIN = 0.98
DOUBT = 2.0
"""By so much divided by the cycles seen the truth may be better than it looks: few cycles tell only of great losses."""
PAUSE, PAUSE_MAX = 48, 1024
"""Tokens after which drafters that lost are tried again, and the longest such pause."""
TRY_COSTS = 50
"""Drafters that lost rest for so many times as long as their last try took longer than plain steps."""
_PROVEN = 32
"""Cycles after which a lead is no luck."""


@dataclass(slots=True)
class TokenRate:
    """Tokens per millisecond, the latest counting most."""

    decay: float
    tokens: float = 0.0
    ms: float = 0.0
    cycles: int = 0

    def add(self, tokens: int, ms: float) -> None:
        """One more cycle, from one acceptance to the next."""
        self.tokens = self.tokens * self.decay + tokens
        self.ms = self.ms * self.decay + ms
        self.cycles += 1

    @property
    def value(self) -> float:
        """The rate."""
        return self.tokens / self.ms if self.ms else 0.0


@dataclass(slots=True)
class SpeculationABTest:
    """Both ways, measured in turn."""

    decay: float = _BRISK
    """Of what is known of plain steps."""
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
        """For texts of which much is known without drafters, too, so that plain steps are not alike either."""
        return cls(_STEADY, BURSTS, BURSTS // 2)

    def add(self, with_drafters: bool, tokens: int, ms: float) -> None:
        """One cycle ended."""
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
        """Whether the next step should be plain: drafters lost, or there must be something to compare with.

        After it, it takes `restart_ms` until drafters are heard again.
        """
        if self._rested >= self._pause and self.lost:
            self._look_again()
        just_lost = self._rested == 0 and self.lost
        if just_lost or (self._left == 0 and self._since >= SAMPLE_EVERY and self._since >= self._between(restart_ms)):
            self._left, self._since = self.steps, 0
        if just_lost and self._pause > PAUSE:  # the first time it is tried again soon
            self._pause = min(PAUSE_MAX, max(self._pause, int(TRY_COSTS * self._lost_tokens)))
        return self.is_plain

    @property
    def _lost_tokens(self) -> float:
        """How many more tokens plain steps would have made in the time of the drafted ones."""
        return max(0.0, self.drafted.ms * self.plain.value - self.drafted.tokens)

    @property
    def is_plain(self) -> bool:
        """Whether steps are plain for now."""
        return self._left > 0 or (self._rested < self._pause and self.lost)

    def _look_again(self) -> None:
        """What made drafters slow may be over; some cycles show it anew, ever more rarely."""
        self.drafted, self._since, self._rested = TokenRate(_STEADY), 0, 0
        self._pause = min(PAUSE_MAX, 2 * self._pause)

    def try_again(self) -> None:
        """Somebody new drafts: how it went so far tells nothing of that."""
        self.drafted, self._pause = TokenRate(_STEADY), PAUSE

    @property
    def usual_rate(self) -> float:
        """Tokens per millisecond with drafters at work; 0 while that is not known."""
        return self.drafted.value if self.drafted.cycles >= _ENOUGH else 0.0

    @property
    def lost(self) -> bool:
        """Whether drafters make the text slower, as far as was measured."""
        return self._known and not self._ahead(MARGIN - DOUBT / self.drafted.cycles)

    def _between(self, restart_ms: float) -> float:
        """Tokens from one comparison to the next; SAMPLE_EVERY is the least."""
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
