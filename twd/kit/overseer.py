"""The supervisor's face on the bus: tells how processes end, and hears how far they have come."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from twd.bus.base import BusError, Leases
from twd.kit.board import Board
from twd.kit.roster import Roster
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Service, Surroundings
from twd.kit.supervisor import Exit
from twd.wire.base import Event, InstanceId
from twd.wire.draft import DrafterAttached
from twd.wire.model import ModelFailed, ModelLoading, ModelReady
from twd.wire.service import ServiceExited, ServiceLease, ServiceStarted, ServiceStopped

LOOK_WHILE_STARTING_S: Final = 1.0
LOOK_S: Final = 5.0


class Overseer(Service):
    """Publishes ServiceExited, clears the leases of dead processes, keeps the board."""

    name = "supervisor"
    reads = (ServiceStarted, ServiceStopped, ModelLoading, ModelReady, ModelFailed, DrafterAttached)
    writes = (ServiceExited,)

    def __init__(self, ground: Surroundings, board: Board, changed: Callable[[], None]) -> None:
        super().__init__(ground)
        self._board = board
        self._changed = changed
        self._roster = Roster()
        self._registry: Leases | None = None
        self._news = asyncio.Event()

    async def setup(self) -> None:
        """Open the registry and keep looking into it."""
        self._registry = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        self.tasks.start("look", self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            self._news.clear()
            await self._look()
            pause = LOOK_S if self._board.ready else LOOK_WHILE_STARTING_S
            try:
                await asyncio.wait_for(self._news.wait(), pause)
            except TimeoutError:
                continue

    async def _look(self) -> None:
        assert self._registry is not None
        try:
            entries = await self._registry.entries()
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        leases = [lease for entry in entries if (lease := read_lease(entry.value)) is not None]
        here = [lease for lease in leases if lease.node == self.ground.node]
        if self._board.see(here, self.clock.wall_ms()):
            self._changed()

    def tell_exit(self, gone: Exit) -> None:
        """Publish the end of a process, and take its lease away."""
        event = ServiceExited(
            service=gone.name,
            node=self.ground.node,
            pid=gone.pid,
            exit_code=gone.code,
            restarts=gone.restarts,
            retry_in_ms=int(gone.retry_in_s * 1000),
            last_words=gone.last_words[-4096:],
        )
        instance = self._roster.hear(event)
        self.emit(event)
        if instance is not None and self._registry is not None and not self.ended.is_set():
            self.tasks.start("clear", self._clear(self._registry, instance))

    async def _clear(self, registry: Leases, instance: InstanceId) -> None:
        try:
            await registry.delete(instance)
        except BusError as error:
            self.log.warning("the lease of %s is left to age away: %s", instance, error)

    # -- events --------------------------------------------------------------------------------

    def _look_now(self, event: Event) -> Effects:
        self._roster.hear(event)
        self._news.set()
        return None

    def on_service_started(self, event: ServiceStarted) -> Effects:
        """A process of ours, or of somebody else, says that it works."""
        return self._look_now(event)

    def on_service_stopped(self, event: ServiceStopped) -> Effects:
        """A service left in good order."""
        return self._look_now(event)

    def on_model_loading(self, event: ModelLoading) -> Effects:
        """A model is on its way."""
        self._board.loading(event.model, event.progress, event.stage)
        self._changed()
        return None

    def on_model_ready(self, event: ModelReady) -> Effects:
        """A model can be used."""
        return self._look_now(event)

    def on_model_failed(self, event: ModelFailed) -> Effects:
        """A model cannot be used."""
        return self._look_now(event)

    def on_drafter_attached(self, event: DrafterAttached) -> Effects:
        """A draft model can be used."""
        return self._look_now(event)


def read_lease(value: bytes) -> ServiceLease | None:
    """A lease as it stands in the registry; None when it makes no sense."""
    try:
        return msgspec.json.decode(value, type=ServiceLease)
    except msgspec.DecodeError:
        return None
