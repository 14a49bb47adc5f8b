"""Processes of a simulated machine: started, stopped, killed, and started again by a keeper."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from tests.sim.virtual_loop import Process
from twd.bus.base import BusError
from twd.bus.memory.bus import MemoryBus
from twd.kit.clock import LoopClock
from twd.kit.ids import Ids
from twd.kit.service import Service, ServiceContext
from twd.wire.base import InstanceId, NodeId
from twd.wire.codec import encode
from twd.wire.routes import subject_of
from twd.wire.service import ServiceExited

if TYPE_CHECKING:
    from tests.sim.world import World

ServiceFactory = Callable[[ServiceContext], Service]
BACKOFF_S, BACKOFF_MAX_S = 0.5, 5.0
DRAIN_S = 20.0

_quiet = logging.getLogger("twd.sim")
_quiet.setLevel(logging.CRITICAL + 1)


class Unit:
    """One service's place on a node; its process comes and goes."""

    def __init__(self, world: World, name: str, node: str, factory: ServiceFactory) -> None:
        self.world = world
        self.name = name
        self.node = node
        self.process: Process | None = None
        self.service: Service | None = None
        self.bus: MemoryBus | None = None
        self.pid = 0
        self.starts = 0
        self.ended = asyncio.Event()
        self.pauses: list[tuple[float, float]] = []
        self._factory = factory

    @property
    def alive(self) -> bool:
        """Whether a process of this unit exists now, stopped or not."""
        return self.process is not None and self.process.alive and not self.ended.is_set()

    def start(self) -> None:
        """A new process, as after fork and exec."""
        self.starts += 1
        self.pid = self.world.next_pid()
        self.ended = asyncio.Event()
        self.service = None
        self.process = Process(f"{self.name}#{self.starts}")
        self.bus = self.process.context.run(self.world.connect, self.node)
        self.world.loop.start(self.process, self._main(self.bus, self.ended), self.process.name)

    async def _main(self, bus: MemoryBus, ended: asyncio.Event) -> None:
        source = random.Random(f"{self.world.plan.seed} {self.name} {self.starts}")
        ctx = ServiceContext(bus, NodeId(self.node), LoopClock(), Ids(source), _quiet, self.pid)
        self.service = self._factory(ctx)
        try:
            await self.service.start()
        except BusError:
            pass  # no bus, no service: the keeper tries again
        else:
            await self.service.ended.wait()
        await bus.close()
        ended.set()

    def kill(self) -> None:
        """SIGKILL, at the end of this turn of the loop."""
        process, bus, ended = self.process, self.bus, self.ended

        def strike() -> None:
            if process is not None and bus is not None and process.alive and not ended.is_set():
                self.world.loop.kill_process(process)
                bus.kill()
                self.world.note_death(self)
                ended.set()

        self.world.loop.between_turns(strike)

    def pause(self, for_s: float) -> None:
        """SIGSTOP now, SIGCONT later."""
        process, loop = self.process, self.world.loop
        if process is not None and self.alive:
            self.pauses.append((loop.time(), loop.time() + for_s))
            loop.between_turns(lambda: loop.stop_process(process))
            loop.call_later(for_s, loop.between_turns, lambda: loop.continue_process(process))

    def drain(self) -> None:
        """SIGTERM."""
        service, process = self.service, self.process
        if service is not None and process is not None and self.alive:
            self.world.loop.start(process, service.drain(DRAIN_S), f"drain {self.name}")


class Keeper:
    """The supervisor of one machine: what ends is told and started again, a little later each time."""

    def __init__(self, world: World, node: str, units: list[Unit]) -> None:
        self.world = world
        self.node = node
        self.units = units
        self.process = Process(f"keeper-{node}")
        self.bus = self.process.context.run(world.connect, node)
        self._keeping = [world.loop.start(self.process, self._keep(unit), f"keep {unit.name}") for unit in units]

    async def _keep(self, unit: Unit) -> NoReturn:
        backoff = BACKOFF_S
        while True:
            unit.start()
            began = self.world.loop.time()
            await unit.ended.wait()
            backoff = BACKOFF_S if self.world.loop.time() - began > 5.0 else min(backoff * 2, BACKOFF_MAX_S)
            self._tell(unit, backoff)
            await asyncio.sleep(backoff)

    def _tell(self, unit: Unit, backoff: float) -> None:
        event = ServiceExited(
            source=InstanceId(f"keeper.{self.node}.x"),
            service=unit.name.split("-", 1)[0],
            node=NodeId(self.node),
            pid=unit.pid,
            exit_code=-9,
            restarts=unit.starts,
            retry_in_ms=int(backoff * 1000),
        )
        self.bus.publish(subject_of(event), encode(event))

    def kill(self) -> None:
        """The machine loses power: the keeper goes with all it keeps."""
        for unit in self.units:
            unit.kill()

        def strike() -> None:
            self.world.loop.kill_process(self.process)
            self.bus.kill()

        self.world.loop.between_turns(strike)

    def close(self) -> None:
        """End all units in good order and start none again."""
        for task in self._keeping:
            task.cancel()
        for unit in self.units:
            unit.drain()
