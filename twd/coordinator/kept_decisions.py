"""A coordinator's decisions, stored in the registry: for stages and speculators that come late, and for the coordinator
after this one."""

import logging
from collections.abc import Callable, Iterable, Mapping

from twd.bus.base import BusError, Leases
from twd.wire.codec import encode
from twd.wire.placement import PlacementDecided, placement_key, read_placement


class KeptDecisions:
    """Reads and writes them."""

    def __init__(self, log: logging.Logger) -> None:
        self.registry: Leases | None = None
        self._log = log

    async def before(self, models: Iterable[str]) -> dict[str, PlacementDecided]:
        """Return the last coordinator's decisions by place: these models already use the memory of their workers."""
        assert self.registry is not None
        found: dict[str, PlacementDecided] = {}
        for model in models:
            entry = await self.registry.get(placement_key(model))
            decision = read_placement(entry.value, entry.key) if entry is not None else None
            if decision is not None:
                found[model] = decision
        return found

    async def keep_all(self, decided: Callable[[], Mapping[str, PlacementDecided]], may: Callable[[], bool]) -> None:
        """Store all decisions again, as long as this coordinator may."""
        for place in list(decided()):
            decision = decided().get(place)  # it may have changed during an earlier write
            if decision is not None and may():
                await self.keep(decision)

    async def keep(self, decision: PlacementDecided) -> None:
        """Store one decision; if the broker is away, the next time stores it."""
        assert self.registry is not None
        try:
            await self.registry.put(placement_key(decision.place), encode(decision))
        except BusError as error:
            self._log.warning("the decision about %s could not be kept: %s", decision.place, error)
