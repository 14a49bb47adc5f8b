"""Of several machines that want one file from a hub, one holds a claim and reads it there."""

import logging
from typing import Final

import msgspec

from twd.bus.base import Bus, BusError, LeaseEntry, Leases
from twd.kit.lease_lock import LeaseLock
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.wire.base import InstanceId
from twd.wire.reading import read_as
from twd.wire.swarm import HUB_READERS, HubReader

TURN_S: Final = 0.5
"""Holders renew this often (seconds)."""
SILENT_S: Final = 2.0
"""After so many seconds without a renewal, another machine reads. Where the holder was only late, it notices at its
next renewal, and what both had asked for comes twice."""
log = logging.getLogger("twd.swarm")


def reader_of(entry: LeaseEntry) -> HubReader | None:
    """Return what a claim says; None for other keys, and for one that is not renewed any more."""
    held = entry.key.removesuffix(".claim") in HUB_READERS and entry.age_s <= SILENT_S
    return read_as(HubReader, entry.value) if held else None


def order_of(sha256: str) -> list[str]:
    """Return the keys in the order in which a file tries them."""
    first = int(sha256[:8], 16) % len(HUB_READERS)
    return [*HUB_READERS[first:], *HUB_READERS[:first]]


class HubClaim:
    """The claim to read one file from its hub."""

    def __init__(self, bus: Bus, instance: InstanceId, sha256: str) -> None:
        self._bus, self._me = bus, HubReader(instance=instance, sha256=sha256)
        self._value = msgspec.json.encode(self._me)
        self._lock: LeaseLock | None = None

    @property
    def held(self) -> bool:
        """Whether this machine is the one that reads."""
        return self._lock is not None

    async def turn(self) -> bool:
        """Renew the claim, or take it if nobody holds it; returns whether it is ours. Without a bus nothing changes."""
        try:
            if self._lock is None or not await self._lock.renew(self._value):
                self._lock = await self._take(await self._bus.leases(LEASE_BUCKET, LEASE_TTL_S))
        except BusError as error:
            log.warning("the claim on a file from a hub could not be renewed: %s", error)
        return self.held

    async def _take(self, leases: Leases) -> LeaseLock | None:
        readers = [reader for entry in await leases.entries() if (reader := reader_of(entry)) is not None]
        if any(reader.sha256 == self._me.sha256 and reader != self._me for reader in readers):
            return None
        for key in order_of(self._me.sha256):
            lock = LeaseLock(leases, key, lambda value: value == self._value)
            holder = await lock.take(self._value, lambda entry: reader_of(entry) in (None, self._me))
            if holder is None:
                return lock
            other = reader_of(holder)
            if other is not None and other.sha256 == self._me.sha256:
                return None
        return None

    async def release(self) -> None:
        """Let another machine read."""
        lock, self._lock = self._lock, None
        if lock is not None:
            try:
                await lock.release(self._value)
            except BusError as error:
                log.warning("the claim on a file from a hub could not be released: %s", error)
