"""A lock that one process holds at a time: a key of the lease registry, changed only by compare-and-set."""

import asyncio
from collections.abc import Callable
from typing import Final

from twd.bus.base import LeaseEntry, Leases

MayTake = Callable[[LeaseEntry], bool]
TRIES: Final = 3
SUFFIX: Final = "claim"


class LeaseLock:
    """The lock on one key."""

    def __init__(self, leases: Leases, key: str, is_mine: Callable[[bytes], bool]) -> None:
        self.key = f"{key}.{SUFFIX}"
        self._leases = leases
        self._is_mine = is_mine
        self._revision = 0
        self._turn = asyncio.Lock()

    @property
    def held(self) -> bool:
        """Whether this process held the lock at the last check."""
        return self._revision > 0

    async def take(self, value: bytes, may_take: MayTake) -> LeaseEntry | None:
        """Take the lock, if it is free or `may_take(holder)` is true. Returns None on success, else the holder."""
        holder = None
        for _ in range(TRIES):
            revision = await self._leases.create(self.key, value)
            if revision is None:
                holder = await self._leases.get(self.key)
                if holder is None:
                    continue  # the key expired between the two requests
                if not may_take(holder):
                    return holder
                revision = await self._leases.update(self.key, value, holder.revision)
            if revision is not None:
                self._revision = revision
                return None
        return holder or LeaseEntry(self.key, b"", 0, 0.0)

    async def renew(self, value: bytes) -> bool:
        """Renew the lock; returns False when another process holds it now."""
        async with self._turn:
            if self._revision:
                revision = await self._leases.update(self.key, value, self._revision)
                self._revision = revision or await self._recover(value)
            return self.held

    async def _recover(self, value: bytes) -> int:
        """Take the key again if another process does not hold it; returns its new revision, or 0.

        Our revision is not the current one: the broker lost the key, or an answer to us was lost, or another process
        has it.
        """
        for _ in range(TRIES):
            holder = await self._leases.get(self.key)
            if holder is not None and not self._is_mine(holder.value):
                return 0
            if holder is None:
                revision = await self._leases.create(self.key, value)
            else:
                revision = await self._leases.update(self.key, value, holder.revision)
            if revision:
                return revision  # otherwise a late write of this process came in between: try again
        return 0

    async def release(self, value: bytes = b"") -> None:
        """Release the lock, if this process still holds it."""
        async with self._turn:
            if self._revision and await self._leases.update(self.key, value, self._revision) is not None:
                await self._leases.delete(self.key)
            self._revision = 0
