"""A limit in bytes per second, shared by all transfers of one direction."""

import asyncio
from collections.abc import Callable

BURST_S = 0.25
"""The bytes of this many seconds may be sent at once."""


class Pace:
    """Limits a rate in MiB per second; 0: no limit."""

    def __init__(self, mib_s: float = 0.0, clock: Callable[[], float] | None = None) -> None:
        self.bytes_s = mib_s * 1024 * 1024
        self._clock = clock or asyncio.get_running_loop().time
        self._free_at = 0.0

    def wait_s(self, length: int) -> float:
        """Count bytes; returns the seconds to wait after them."""
        if not self.bytes_s:
            return 0.0
        now = self._clock()
        self._free_at = max(self._free_at, now - BURST_S) + length / self.bytes_s
        return max(0.0, self._free_at - now)

    async def passed(self, length: int) -> None:
        """Count bytes, and wait until more may follow."""
        if wait := self.wait_s(length):
            await asyncio.sleep(wait)

    @property
    def step(self) -> int:
        """The number of bytes to send at a time: small for a slow limit, so that data still flows."""
        return max(16 * 1024, min(1 << 20, int(self.bytes_s * BURST_S))) if self.bytes_s else 1 << 20
