"""Of several machines that want one file from a hub, one holds a claim and reads it there."""

import logging
from collections.abc import Mapping
from functools import partial
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
SILENT_S: Final = 1.75
"""After so many seconds without a renewal, seen at two looks in a row, another machine reads: one that looks late
itself must not take the holder for lost. A holder that was only late notices at its next renewal."""
log = logging.getLogger("twd.swarm")


def reader_of(entry: LeaseEntry) -> HubReader | None:
    """Return what a claim says; None for other keys, and for one that is not renewed any more."""
    return reader_in(entry) if entry.age_s <= SILENT_S else None


def reader_in(entry: LeaseEntry) -> HubReader | None:
    """Return what a claim says, however old it is; None for other keys."""
    return read_as(HubReader, entry.value) if entry.key.removesuffix(".claim") in HUB_READERS else None


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
        self._silent: dict[str, int] = {}
        """The claims that were not renewed lately at the last look, and their revisions."""

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

    async def keep(self) -> bool:
        """Renew the claim if it is ours, and take none; returns whether it is ours."""
        return self.held and await self.turn()

    async def _take(self, leases: Leases) -> LeaseLock | None:
        entries = await leases.entries()
        held = partial(self._held_by, self._silent)
        self._silent = {entry.key: entry.revision for entry in entries if entry.age_s > SILENT_S}
        readers = [reader for entry in entries if (reader := held(entry)) is not None]
        if any(reader.sha256 == self._me.sha256 and reader != self._me for reader in readers):
            return None
        for key in order_of(self._me.sha256):
            lock = LeaseLock(leases, key, lambda value: value == self._value)
            holder = await lock.take(self._value, lambda entry: held(entry) in (None, self._me))
            if holder is None:
                return lock
            other = held(holder)
            if other is not None and other.sha256 == self._me.sha256:
                return None
        return None

    def _held_by(self, silent: Mapping[str, int], entry: LeaseEntry) -> HubReader | None:
        """Return who holds a claim; None if it was silent at the last look and was not renewed since then."""
        return None if silent.get(entry.key) == entry.revision else reader_in(entry)

    async def release(self) -> None:
        """Let another machine read."""
        lock, self._lock = self._lock, None
        if lock is not None:
            try:
                await lock.release(self._value)
            except BusError as error:
                log.warning("the claim on a file from a hub could not be released: %s", error)
