"""The lease registry of the in-memory bus: keys that expire when they are not renewed."""

import asyncio
from collections.abc import Callable

from twd.bus.base import BusError, LeaseEntry, check_key


class MemoryLeases:
    """One bucket's keys on the broker, with the time of their last renewal."""

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.revision = 0
        self.keys: dict[str, tuple[bytes, int, float]] = {}

    def live(self, now: float) -> dict[str, tuple[bytes, int, float]]:
        """Remove expired keys; return the rest."""
        self.keys = {k: v for k, v in self.keys.items() if now - v[2] < self.ttl_s}
        return self.keys

    def write(self, key: str, value: bytes, now: float) -> int:
        """Set a key; returns its revision."""
        self.revision += 1
        self.keys[key] = (bytes(value), self.revision, now)
        return self.revision


class ClientLeases:
    """A bucket as one client sees it; satisfies the Leases protocol."""

    def __init__(self, registry: MemoryLeases, connected: Callable[[], bool]) -> None:
        self._registry = registry
        self._connected = connected

    def _now(self, key: str | None = None) -> float:
        if key is not None:
            check_key(key)
        if not self._connected():
            raise BusError("the bus is away")
        return asyncio.get_running_loop().time()

    async def put(self, key: str, value: bytes) -> int:
        """Write or renew a key."""
        return self._registry.write(key, value, self._now(key))

    async def create(self, key: str, value: bytes) -> int | None:
        """Write a key that must not exist; returns its revision, or None."""
        now = self._now(key)
        if key in self._registry.live(now):
            return None
        return self._registry.write(key, value, now)

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Renew a claim; returns its revision, or None."""
        now = self._now(key)
        held = self._registry.live(now).get(key)
        if held is None or held[1] != revision:
            return None
        return self._registry.write(key, value, now)

    async def delete(self, key: str) -> None:
        """Delete a key."""
        self._registry.live(self._now(key)).pop(key, None)

    async def get(self, key: str) -> LeaseEntry | None:
        """Read one live key."""
        now = self._now(key)
        held = self._registry.live(now).get(key)
        return None if held is None else LeaseEntry(key, held[0], held[1], now - held[2])

    async def entries(self) -> list[LeaseEntry]:
        """Read all live keys."""
        now = self._now()
        return [LeaseEntry(k, v, r, now - t) for k, (v, r, t) in sorted(self._registry.live(now).items())]
