"""Finds the number of threads with which a drafter is fastest now: first the planned number; others are tried at
little cost."""

from dataclasses import dataclass, field
from statistics import median
from typing import Final, Self

TRY_STEPS: Final = 5
FIRST: Final = 48
"""Steps before the first try, and the fewest steps between two tries."""
LONGEST: Final = 8192
COSTS: Final = 50
"""Between two tries lies this many times the time that the last try lost."""
HOPELESS: Final = 2.5
"""A try ends at once at a step that takes this many times the usual time."""
BETTER: Final = 0.9
"""Another number of threads takes over if its steps take less than this share of the usual time."""


@dataclass(slots=True)
class ThreadChoice:
    """Takes the time of each step of one row; returns the number of threads for the next."""

    counts: tuple[int, ...]
    """The numbers of threads that may be used, the planned one first."""
    now: int
    _best: int
    _wait: int = FIRST
    _next: int = 1
    _taken: list[float] = field(default_factory=list)
    _usual: float = 0.0
    """Milliseconds of a step with the best number, when the try began."""

    @classmethod
    def of(cls, planned: int, room: int, asked: int) -> Self:
        """Returns a choice with the planned number; other numbers are tried only if the settings asked for none."""
        others = () if asked else tuple(sorted({1, room} - {planned}))
        return cls((planned, *others), planned, planned)

    @property
    def _trying(self) -> bool:
        return self.now != self._best

    def observe(self, ms: float) -> int:
        """Take the time of a step with `now` threads; returns the number of threads to go on with."""
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
