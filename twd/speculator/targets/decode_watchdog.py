"""Decides when a pass counts as hung, from the times of such passes in this process and from whether it still does
work.

Nothing here reads a clock. The engine's thread records its passes; the service's loop checks them from time to time.
"""

from dataclasses import dataclass
from typing import Final

from twd.decoding.cost import CostCurve
from twd.process.compute import ProcessEffort
from twd.wire.draft import DeviceKind
from twd.wire.failures import FailureCode, TwdError

LEAST_S: Final = 15.0
FACTOR: Final = 4.0
"""A pass that takes this many times longer than expected counts as hung."""
UNKNOWN_S: Final = 300.0
"""Seconds for passes that were never measured here: a device first builds its kernels, and a CPU may swap."""
CROWDED_MOST: Final = 4.0
LOOK_MOST_S: Final = 2.0
"""Most seconds between two checks that count as waiting: the machine may have slept."""
WORKING_SHARE: Final = 0.1
"""While a process does work, only this share of the time counts."""
_BUSY_SHARE: Final = 0.05
_FAULTS_A_SECOND: Final = 10.0
_FADE: Final = 0.98


def patience_s(expected_ms: float, *, familiar: bool, crowding: float = 1.0) -> float:
    """Returns how many seconds a pass may take; `familiar`: the device computed such passes before, in this
    process."""
    least = LEAST_S if familiar else UNKNOWN_S
    return max(least, FACTOR * expected_ms / 1000) * min(CROWDED_MOST, max(1.0, crowding))


def until_known_s(usual_s: float, *, familiar: bool) -> float:
    """Returns how many seconds to wait for a pass that would usually count as hung after `usual_s`."""
    return usual_s if familiar else max(usual_s, UNKNOWN_S)


def works(before: ProcessEffort, after: ProcessEffort, seconds: float, device: DeviceKind) -> bool:
    """Returns whether a pass makes progress without a sign: data is read from the disk, or the CPU computes.

    A thread that waits for a GPU may spin, so its CPU time shows nothing.
    """
    computes = device is DeviceKind.CPU and after.cpu_s - before.cpu_s >= _BUSY_SHARE * seconds
    return computes or after.faults - before.faults >= max(1.0, _FAULTS_A_SECOND * seconds)


@dataclass(frozen=True, slots=True)
class PassUnderWay:
    """A pass that is running: when it began, and its rows."""

    since: float
    rows: int


class PassTimes:
    """The times of passes, by their number of rows in powers of two. The longest time counts, and fades."""

    def __init__(self) -> None:
        self.now: PassUnderWay | None = None
        self._longest_ms: dict[int, float] = {}

    def begins(self, rows: int, at: float) -> None:
        """Record the start of a pass; a running pass has ended by that."""
        self.ends(at)
        self.now = PassUnderWay(at, rows)

    def ends(self, at: float) -> None:
        """Record the end of the running pass, if there is one."""
        done, self.now = self.now, None
        if done is not None:
            size = done.rows.bit_length()
            longest = self._longest_ms.get(size, 0.0) * _FADE
            self._longest_ms[size] = max(longest, (at - done.since) * 1000)

    def expected_ms(self, rows: int, cost: CostCurve) -> float:
        """Returns the milliseconds that a pass of `rows` rows may take. Texts grow, so it may be more than the cost
        curve says."""
        seen = [ms for size, ms in list(self._longest_ms.items()) if size <= rows.bit_length()]
        return max([cost.ms(max(1, rows)), *seen])

    def familiar(self, rows: int) -> bool:
        """Returns whether a pass of this size or a greater one has ended before."""
        return any(size >= rows.bit_length() for size in list(self._longest_ms))


class DecodeWatchdog:
    """Counts how long the running pass was waited for, from check to check."""

    def __init__(self) -> None:
        self._pass: PassUnderWay | None = None
        self._looked_at = 0.0
        self._effort = ProcessEffort()
        self._waited_s = 0.0

    def look(self, under_way: PassUnderWay | None, now: float, effort: ProcessEffort, device: DeviceKind) -> float:
        """Returns the waiting seconds that count so far; 0: no pass runs, or it is seen for the first time."""
        if under_way is not self._pass or under_way is None:
            self._pass, self._waited_s = under_way, 0.0
        else:
            seconds = max(0.0, now - self._looked_at)
            share = WORKING_SHARE if works(self._effort, effort, seconds, device) else 1.0
            self._waited_s += share * min(seconds, LOOK_MOST_S)
        self._looked_at, self._effort = now, effort
        return self._waited_s

    def check(
        self, pace: PassTimes, cost: CostCurve, device: DeviceKind, now: float, effort: ProcessEffort, crowd: float
    ) -> None:
        """Raise TwdError when a pass takes so long that its device must hang."""
        under_way = pace.now
        waited_s = self.look(under_way, now, effort, device)
        if under_way is None:
            return
        expected_ms = pace.expected_ms(under_way.rows, cost)
        familiar = device is DeviceKind.GPU and pace.familiar(under_way.rows)
        if waited_s > patience_s(expected_ms, familiar=familiar, crowding=crowd):
            usual = f"{expected_ms / 1000:.3g} s were expected of its {under_way.rows} rows"
            raise TwdError(FailureCode.WORKER_LOST, f"a pass has not ended for {waited_s:.0f} s, {usual}; it hangs")
