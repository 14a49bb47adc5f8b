"""With how many threads a drafter is quickest as things are: the planned number first, others tried at little cost."""

from dataclasses import dataclass, field
from statistics import median
from typing import Final, Self

TRY_STEPS: Final = 5
FIRST: Final = 48
"""Steps before the first try, and the least between two."""
LONGEST: Final = 8192
COSTS: Final = 50
"""Between two tries lies so many times the time that the last one lost."""
HOPELESS: Final = 2.5
"""A try with a step that took so many times as long ends at once."""
BETTER: Final = 0.9
"""So much quicker must another number of threads be to take over."""


@dataclass(slots=True)
class ThreadChoice:
    """Told how long each step of one row took; says with how many threads the next is to be computed."""

    counts: tuple[int, ...]
    """What may be used, the planned number first."""
    now: int
    _best: int
    _wait: int = FIRST
    _next: int = 1
    _taken: list[float] = field(default_factory=list)
    _usual: float = 0.0
    """A step with the best number, when the try began."""

    @classmethod
    def of(cls, planned: int, room: int, asked: int) -> Self:
        """What was asked for is not tried against anything."""
        others = () if asked else tuple(sorted({1, room} - {planned}))
        return cls((planned, *others), planned, planned)

    @property
    def _trying(self) -> bool:
        return self.now != self._best

    def observe(self, ms: float) -> int:
        """One more step with `now` threads ended; with how many to go on."""
        self._taken.append(ms)
        if not self._trying:
            del self._taken[:-FIRST]
            self._wait -= 1
            if self._wait <= 0 and len(self.counts) > 1:
                self._usual = median(self._taken)
                self._begin()
        elif len(self._taken) >= TRY_STEPS or ms > HOPELESS * self._usual:
            self._end()
        return self.now

    def _begin(self) -> None:
        others = [count for count in self.counts if count != self._best]
        self._next = (self._next + 1) % len(others)
        self.now, self._taken = others[self._next], []

    def _end(self) -> None:
        lost = sum(self._taken) - len(self._taken) * self._usual
        if median(self._taken) < BETTER * self._usual:
            self._best = self.now
        self._wait = max(FIRST, min(LONGEST, round(COSTS * lost / max(self._usual, 1e-3))))
        self.now, self._taken = self._best, []
