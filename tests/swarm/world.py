"""Machines on one bus that share models, and what was told there."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.signed import signed
from tests.swarm.swarms import model
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.messages.reply_decoding import read_answer
from twd.kit.service import ServiceContext
from twd.pieces.manifest import Manifest
from twd.pieces.names import manifest_of
from twd.settings.model import DrafterConfig, PoolConfig, Settings, SwarmConfig
from twd.swarm.service import Swarm
from twd.wire.base import Event, InstanceId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.node import ModelFile, NodeChanged, NodeFacts
from twd.wire.routes import EVERYTHING, subject_of
from twd.wire.swarm import (
    PullAnswered,
)


class World:
    """Machines on one bus, and what was told there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.told: list[Event] = []
        self.services: dict[str, Swarm] = {}
        self._stack = AsyncExitStack()

    async def begin(self) -> None:
        """Listen."""
        await self.broker.connect("watcher").subscribe(EVERYTHING, self._take)

    def _take(self, message: object) -> None:
        event = decode(message.data)  # type: ignore[attr-defined]
        if isinstance(event, Event):
            self.told.append(event)

    def home(self, node: str) -> Path:
        """A machine's state folder."""
        return self.folder / node

    async def machine(
        self, node: str, *, accept: bool = True, trusted: bool = False, drafters: tuple[DrafterConfig, ...] = ()
    ) -> Swarm:
        """One more service."""
        (self.home(node) / "models").mkdir(parents=True, exist_ok=True)
        settings = Settings(
            home=str(self.home(node)),
            swarm=SwarmConfig(port=0, accept=accept),
            pool=PoolConfig(trusted_lan=trusted),
            drafters=drafters,
        )
        bus = self.broker.connect(node)
        ctx = ServiceContext(bus=bus, node=NodeId(node), clock=SystemClock(), ids=Ids(random.Random(node)))
        service = self.services[node] = Swarm(ctx, settings)
        await service.start()
        return service

    def models(self, node: str, path: Path, quick: str = "") -> None:
        """The agent of a machine tells of a file."""
        listed = ModelFile(name=path.stem, path=str(path), size_bytes=path.stat().st_size, hash=quick)
        instance = InstanceId(f"agent.{node}.x")
        facts = NodeFacts(node=NodeId(node), instance=instance, machine=node, pid=1, models=[listed])
        event = signed(NodeChanged(node=NodeId(node), facts=facts))
        self.broker.connect("agent").publish(subject_of(event), encode(event))

    async def ask(self, event: Event) -> PullAnswered:
        """A wish and its answer."""
        answer = read_answer(
            await self.broker.connect("asker").request(subject_of(event := signed(event)), encode(event), timeout_s=20)
        )
        assert isinstance(answer, PullAnswered)
        return answer

    async def until(self, kind: type[Event], count: int = 1) -> list[Event]:
        """Until so many of these were told."""
        await until(lambda: len(self.heard(kind)) >= count, f"{count} of {kind.__name__}")
        return self.heard(kind)

    def heard(self, kind: type[Event]) -> list[Event]:
        """All of these that were told."""
        return [one for one in self.told if isinstance(one, kind)]

    async def close(self) -> None:
        """End all."""
        for service in self.services.values():
            await service.stop()


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    world = World(folder)
    await world.begin()
    try:
        yield world
    finally:
        await world.close()


def with_model(world: World, node: str, *, known: bool = True) -> tuple[Path, Manifest]:
    folder = world.home(node) / "models"
    folder.mkdir(parents=True)
    path, manifest = model(folder)
    if not known:
        manifest_of(path).unlink()
    return path, manifest
