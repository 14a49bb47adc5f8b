"""Decides when the work of a thread counts as hung although the event loop of its process still runs."""

from collections.abc import Hashable
from typing import Final

from twd.process.compute import ProcessEffort, effort
from twd.wire.failures import FailureCode, TwdError

STILL_S: Final = 15.0
LOOK_S: Final = 1.0
LOOKS_AT_ONCE: Final = 2.0
LONGER_THAN_USUAL: Final = 3.0
"""Work may take this many times as long as the longest work before, even without a sign of progress."""
IDLE_SHARE: Final = 0.05
"""A process that uses less than this share of one core computes nothing."""


class Standstill:
    """Measures how long a piece of work shows no progress: no CPU time, and no page read from disk."""

    def __init__(self) -> None:
        self._work: Hashable | None = None
        self._effort = ProcessEffort()
        self._looked_at = 0.0
        self._still_s = self._lasted_s = self._longest_s = 0.0

    def look(self, work: Hashable | None, now: float, effort: ProcessEffort) -> bool:
        """Return whether the work counts as hung. `work` names the current work; None: there is none."""
        seconds = max(0.0, min(now - self._looked_at, LOOKS_AT_ONCE * LOOK_S))
        if work is None or work != self._work:
            self._longest_s = max(self._longest_s, self._lasted_s)
            self._work, self._still_s, self._lasted_s = work, 0.0, 0.0
        else:
            moves = effort.cpu_s - self._effort.cpu_s >= IDLE_SHARE * seconds or effort.faults > self._effort.faults
            self._lasted_s += seconds
            self._still_s = 0.0 if moves else self._still_s + seconds
        self._looked_at, self._effort = now, effort
        return self._still_s > max(STILL_S, LONGER_THAN_USUAL * self._longest_s)


def hung_work(watch: Standstill, work: Hashable | None, now: float) -> TwdError | None:
    """Look at the current work once; returns an error if it counts as hung, else None."""
    if not watch.look(work, now, effort()):
        return None
    text = f"its work has stood still for {STILL_S:g} s: no processor time, nothing read from the disk; it hangs"
    return TwdError(FailureCode.WORKER_LOST, text)
