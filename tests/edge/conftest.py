"""A running edge on a loopback port, with a scripted speculator on the other side of the bus."""

import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.edge.fake_speculator import FakeSpeculator, Script
from twd.bus.memory.bus import MemoryBroker
from twd.edge.service import EdgeService
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import EdgeConfig, Settings
from twd.wire.base import NodeId


def ctx(broker: MemoryBroker, seed: int = 1) -> ServiceContext:
    """Surroundings on the memory broker, with seeded ids."""
    return ServiceContext(bus=broker.connect("n"), node=NodeId("n"), clock=SystemClock(), ids=Ids(random.Random(seed)))


@dataclass
class House:
    """An edge, its speculator, and a client for both."""

    broker: MemoryBroker
    edge: EdgeService
    speculator: FakeSpeculator
    http: aiohttp.ClientSession
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    @property
    def script(self) -> Script:
        return self.speculator.script

    async def post(self, path: str, payload: object, **kwargs: Any) -> aiohttp.ClientResponse:
        body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        return await self.http.post(self.edge.url + path, data=io.BytesIO(body), **kwargs)

    async def chat(self, **fields: object) -> aiohttp.ClientResponse:
        return await self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]} | fields)


OpenHouse = Callable[..., Awaitable[House]]


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[OpenHouse]:
    """Opens houses with the edge settings of a test; closes them all at its end."""
    houses: list[House] = []

    async def open_one(script: Script | None = None, **edge: object) -> House:
        broker = MemoryBroker()
        settings = msgspec.convert({"home": str(tmp_path), "edge": {"port": 0, **edge}}, Settings)
        assert isinstance(settings.edge, EdgeConfig)
        speculator = FakeSpeculator(ctx(broker, 2), script)
        service = EdgeService(ctx(broker, 3), settings)
        await speculator.start()
        await service.start()
        house = House(broker, service, speculator, aiohttp.ClientSession())
        houses.append(house)
        return house

    yield open_one
    for house in houses:
        await house.http.close()
        await house.edge.stop()
        await house.speculator.stop()
        assert house.edge.fault is None


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    """One house with the default settings."""
    return await open_house()
