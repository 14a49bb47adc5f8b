"""When a pass counts as hung: by what such passes took in this process, and by whether it still does something.

Nothing here reads a clock. The engine's thread writes down its passes, the service's loop looks at them now and then.
"""

from dataclasses import dataclass
from typing import Final

from twd.decoding.cost import CostCurve
from twd.process.compute import ProcessEffort
from twd.wire.draft import DeviceKind

LEAST_S: Final = 15.0
FACTOR: Final = 4.0
"""A pass that takes so many times what it should is not slow any more."""
UNKNOWN_S: Final = 300.0
"""For what was never measured here: at its first passes a device makes its kernels, and processors swap."""
CROWDED_MOST: Final = 4.0
LOOK_MOST_S: Final = 2.0
"""Between two looks the machine may have slept: no more than this counts as waiting."""
WORKING_SHARE: Final = 0.1
"""While a process is seen to work, so much of the time counts."""
_BUSY_SHARE: Final = 0.05
_FAULTS_A_SECOND: Final = 10.0
_FADE: Final = 0.98


def patience_s(expected_ms: float, *, familiar: bool, crowding: float = 1.0) -> float:
    """How long a pass may take; `familiar`: its device computed such passes before, in this process."""
    least = LEAST_S if familiar else UNKNOWN_S
    return max(least, FACTOR * expected_ms / 1000) * min(CROWDED_MOST, max(1.0, crowding))


def until_known_s(usual_s: float, *, familiar: bool) -> float:
    """How long to wait for a pass that would usually count as hung after `usual_s`."""
    return usual_s if familiar else max(usual_s, UNKNOWN_S)


def works(before: ProcessEffort, after: ProcessEffort, seconds: float, device: DeviceKind) -> bool:
    """Whether a pass goes on, though it says nothing: it is read from the disk, or computed by the processor.

    A thread that waits for a GPU may spin, so what that takes of the processor tells nothing.
    """
    computes = device is DeviceKind.CPU and after.cpu_s - before.cpu_s >= _BUSY_SHARE * seconds
    return computes or after.faults - before.faults >= max(1.0, _FAULTS_A_SECOND * seconds)


@dataclass(frozen=True, slots=True)
class PassUnderWay:
    """One pass that has not ended."""

    since: float
    rows: int


class PassTimes:
    """What passes took, by the size of their rows in powers of two; the longest counts, and fades."""

    def __init__(self) -> None:
        self.now: PassUnderWay | None = None
        self._longest_ms: dict[int, float] = {}

    def begins(self, rows: int, at: float) -> None:
        """A pass begins; one that was under way has ended by that."""
        self.ends(at)
        self.now = PassUnderWay(at, rows)

    def ends(self, at: float) -> None:
        """The pass under way, if there is one, is over."""
        done, self.now = self.now, None
        if done is not None:
            size = done.rows.bit_length()
            longest = self._longest_ms.get(size, 0.0) * _FADE
            self._longest_ms[size] = max(longest, (at - done.since) * 1000)

    def expected_ms(self, rows: int, cost: CostCurve) -> float:
        """What a pass of so many rows may well take: texts grow, so it may be more than the curve knows."""
        seen = [ms for size, ms in list(self._longest_ms.items()) if size <= rows.bit_length()]
        return max([cost.ms(max(1, rows)), *seen])

    def familiar(self, rows: int) -> bool:
        """Whether a pass of this size, or of a greater one, has ended before."""
        return any(size >= rows.bit_length() for size in list(self._longest_ms))


class DecodeWatchdog:
    """How long the pass under way was waited for, look by look."""

    def __init__(self) -> None:
        self._pass: PassUnderWay | None = None
        self._looked_at = 0.0
        self._effort = ProcessEffort()
        self._waited_s = 0.0

    def look(self, under_way: PassUnderWay | None, now: float, effort: ProcessEffort, device: DeviceKind) -> float:
        """The seconds so far that count; 0 where nothing is under way, or it was not seen before."""
        if under_way is not self._pass or under_way is None:
            self._pass, self._waited_s = under_way, 0.0
        else:
            seconds = max(0.0, now - self._looked_at)
            share = WORKING_SHARE if works(self._effort, effort, seconds, device) else 1.0
            self._waited_s += share * min(seconds, LOOK_MOST_S)
        self._looked_at, self._effort = now, effort
        return self._waited_s
