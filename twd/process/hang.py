"""When a process counts as hung: it was stopped, or has shown no sign of life for too long. Pure.

Time is counted look by look, and each look counts for little: a machine that slept, or a supervisor that was stopped
itself, finds nobody silent when it goes on.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

AUTO_S: Final = 10.0
"""Event loops turn many times a second, so this is long even on a crowded machine."""
FIRST_S: Final = 60.0
"""Until the first beat a process imports, from a slow disk perhaps."""
LOOK_S: Final = 0.5
LOOKS_AT_ONCE: Final = 2.0
"""However much later than planned a look is, it counts as no more than so many."""
STOPPED_LOOKS: Final = 2
UNHEARD_LOOKS: Final = 7
"""Looks, a second apart, at a lease that ran out although its process beats."""
DOUBLINGS_MAX: Final = 3


class RunState(enum.Enum):
    """What the system says of a process."""

    RUNS = "runs"
    STOPPED = "stopped"
    TRACED = "traced"
    """A debugger holds it: whatever it does, that is not its fault."""


@dataclass(frozen=True)
class HangPolicy:
    """How long a process may be silent before it is ended, and how often it is looked at."""

    silence_s: float = AUTO_S
    """0: nobody is ended."""
    look_s: float = LOOK_S

    @property
    def watches(self) -> bool:
        """Whether anybody is ended at all."""
        return self.silence_s > 0

    def limit_s(self, has_beaten: bool, hangs: int) -> float:
        """The silence that is too long; twice as much after each hang in a row, as the machine may only be slow."""
        usual = self.silence_s if has_beaten else max(FIRST_S, self.silence_s)
        return usual * float(2 ** min(hangs, DOUBLINGS_MAX))


USUAL: Final = HangPolicy()


def policy_of(hang_s: Literal["auto"] | float, look_s: float = LOOK_S) -> HangPolicy:
    """What the setting asks for."""
    return HangPolicy(AUTO_S if hang_s == "auto" else hang_s, look_s)


class Silence:
    """How long one process has shown no sign of life."""

    def __init__(self, policy: HangPolicy) -> None:
        self._policy = policy
        self._looked_at: float | None = None
        self._beats: int | None = None
        self._silent_s = 0.0
        self._stopped = 0

    def look(self, now: float, run: RunState, beats: int | None, hangs: int = 0) -> str:
        """Why the process counts as hung, in words; empty while it does not. `beats` is None where it shows none."""
        seconds = self._seconds(now)
        if run is RunState.TRACED:
            self._silent_s, self._stopped = 0.0, 0
            return ""
        self._stopped = self._stopped + 1 if run is RunState.STOPPED else 0
        if self._stopped >= STOPPED_LOOKS:
            return "it was stopped"
        if beats is None or beats != self._beats:
            self._beats, self._silent_s = beats, 0.0
            return ""
        self._silent_s += seconds
        limit_s = self._policy.limit_s(bool(beats), hangs)
        return f"it showed no sign of life for {self._silent_s:.0f} s" if self._silent_s > limit_s else ""

    def _seconds(self, now: float) -> float:
        since = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        return max(0.0, min(since, LOOKS_AT_ONCE * self._policy.look_s))


class Unheard:
    """Which processes beat, but have long ceased to renew their leases: their loops turn and read nothing."""

    def __init__(self) -> None:
        self._looks: dict[str, int] = {}

    def look(self, silent: Collection[str], leased: int) -> list[str]:
        """Those that count as hung now, of `leased` processes; where all are silent, the broker is to blame."""
        if len(silent) >= leased:
            self._looks.clear()
            return []
        self._looks = {name: self._looks.get(name, 0) + 1 for name in silent}
        return [name for name, looks in self._looks.items() if looks == UNHEARD_LOOKS]
