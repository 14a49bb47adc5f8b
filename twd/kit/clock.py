"""Time for everybody: one clock to pass around, so that a test can hold it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Two readings: one that only moves forward, one that people understand."""

    def now(self) -> float:
        """Seconds that only move forward; for deadlines and durations."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970; for stamps that people read."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class LoopClock:
    """The event loop's time: virtual in a simulation, where `epoch_ms` stands for 1970."""

    def __init__(self, epoch_ms: int = 1_700_000_000_000) -> None:
        self._epoch_ms = epoch_ms

    def now(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        """The loop's time as a stamp."""
        return self._epoch_ms + int(self.now() * 1000)
