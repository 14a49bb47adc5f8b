"""A name that one process holds at a time: a key of the lease registry, changed only by compare-and-set."""

import asyncio
from collections.abc import Callable
from typing import Final

from twd.bus.base import LeaseEntry, Leases

MayTake = Callable[[LeaseEntry], bool]
TRIES: Final = 3
SUFFIX: Final = "claim"


class LeaseLock:
    """One key and our right to it."""

    def __init__(self, leases: Leases, key: str, is_mine: Callable[[bytes], bool]) -> None:
        self.key = f"{key}.{SUFFIX}"
        self._leases = leases
        self._is_mine = is_mine
        self._revision = 0
        self._turn = asyncio.Lock()

    @property
    def held(self) -> bool:
        """Whether it was ours when we last looked."""
        return self._revision > 0

    async def take(self, value: bytes, may_take: MayTake) -> LeaseEntry | None:
        """Claim the key, or take it from a holder of whom `may_take` says so; returns the holder who keeps it."""
        holder = None
        for _ in range(TRIES):
            revision = await self._leases.create(self.key, value)
            if revision is None:
                holder = await self._leases.get(self.key)
                if holder is None:
                    continue  # it ran out between the two questions
                if not may_take(holder):
                    return holder
                revision = await self._leases.update(self.key, value, holder.revision)
            if revision is not None:
                self._revision = revision
                return None
        return holder or LeaseEntry(self.key, b"", 0, 0.0)

    async def renew(self, value: bytes) -> bool:
        """Say that we live; False when somebody else has the key now."""
        async with self._turn:
            if self._revision:
                revision = await self._leases.update(self.key, value, self._revision)
                self._revision = revision or await self._recover(value)
            return self.held

    async def _recover(self, value: bytes) -> int:
        """The key is not as we left it: the broker forgot it, or an answer to us was lost. Or it is another's."""
        for _ in range(TRIES):
            holder = await self._leases.get(self.key)
            if holder is not None and not self._is_mine(holder.value):
                return 0
            if holder is None:
                revision = await self._leases.create(self.key, value)
            else:
                revision = await self._leases.update(self.key, value, holder.revision)
            if revision:
                return revision  # else a late write of our own came in between
        return 0

    async def release(self, value: bytes = b"") -> None:
        """Give the key up, if it is still ours."""
        async with self._turn:
            if self._revision and await self._leases.update(self.key, value, self._revision) is not None:
                await self._leases.delete(self.key)
            self._revision = 0
