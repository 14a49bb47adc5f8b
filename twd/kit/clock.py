"""The clock that is passed to all parts, so that a test can control the time."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic time, and the time of day."""

    def now(self) -> float:
        """Return monotonic seconds, for deadlines and durations."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, for time stamps."""


class SystemClock:
    """The clock of the operating system."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class LoopClock:
    """The event loop's time, which is virtual in a simulation; `epoch_ms` is the time of day at loop time 0."""

    def __init__(self, epoch_ms: int = 1_700_000_000_000) -> None:
        self._epoch_ms = epoch_ms

    def now(self) -> float:
        """Return the loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        """Return the loop's time plus `epoch_ms`, in milliseconds."""
        return self._epoch_ms + int(self.now() * 1000)
