"""Decides when a process counts as hung: it was stopped, or showed no sign of life for too long. No I/O.

The silent time is summed up look by look, and each look adds little. So a machine that slept, or a supervisor that was
stopped itself, does not count others as silent.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

AUTO_S: Final = 10.0
"""Allowed silence in seconds. Event loops turn many times a second, so this is long even on a busy machine."""
FIRST_S: Final = 60.0
"""Allowed seconds until the first beat: until then a process imports, maybe from a slow disk."""
LOOK_S: Final = 0.5
LOOKS_AT_ONCE: Final = 2.0
"""One look counts for at most this many intervals, however late it is."""
STOPPED_LOOKS: Final = 2
UNHEARD_LOOKS: Final = 7
"""After this many looks, one second apart, a process that beats but has no lease counts as hung."""
DOUBLINGS_MAX: Final = 3


class RunState(enum.Enum):
    """Whether the system lets a process run."""

    RUNS = "runs"
    STOPPED = "stopped"
    TRACED = "traced"
    """A debugger holds it; it never counts as hung then."""


@dataclass(frozen=True)
class HangPolicy:
    """How long a process may be silent before it is killed, and how often to look; in seconds."""

    silence_s: float = AUTO_S
    """0: no process is killed."""
    look_s: float = LOOK_S

    @property
    def watches(self) -> bool:
        """Whether processes are watched at all."""
        return self.silence_s > 0

    def limit_s(self, has_beaten: bool, hangs: int) -> float:
        """Return the allowed silence in seconds; doubled after each hang in a row, as the machine may be slow."""
        usual = self.silence_s if has_beaten else max(FIRST_S, self.silence_s)
        return usual * float(2 ** min(hangs, DOUBLINGS_MAX))


USUAL: Final = HangPolicy()


def policy_of(hang_s: Literal["auto"] | float, look_s: float = LOOK_S) -> HangPolicy:
    """Return the policy for a setting."""
    return HangPolicy(AUTO_S if hang_s == "auto" else hang_s, look_s)


class Silence:
    """Sums up how long one process has shown no sign of life."""

    def __init__(self, policy: HangPolicy) -> None:
        self._policy = policy
        self._looked_at: float | None = None
        self._beats: int | None = None
        self._silent_s = 0.0
        self._stopped = 0

    def look(self, now: float, run: RunState, beats: int | None, hangs: int = 0) -> str:
        """Return why the process counts as hung, or an empty text. `beats` is None if it shows no sign of life."""
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
    """Finds processes that beat but have stopped to renew their leases: their loops turn but read nothing."""

    def __init__(self) -> None:
        self._looks: dict[str, int] = {}

    def look(self, silent: Collection[str], leased: int) -> list[str]:
        """Return the names that count as hung now; none if all `leased` processes are silent: the broker failed."""
        if len(silent) >= leased:
            self._looks.clear()
            return []
        self._looks = {name: self._looks.get(name, 0) + 1 for name in silent}
        return [name for name, looks in self._looks.items() if looks == UNHEARD_LOOKS]
