"""A running edge on a loopback port, with a scripted speculator on the other side of the bus, and in some tests a gate
or a racer between them."""

import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.edge.fake_judge import FakeJudge
from tests.edge.fake_speculator import MODEL, FakeSpeculator, Script
from twd.bus.memory.bus import MemoryBroker
from twd.edge.service import EdgeService
from twd.gate.service import Gate
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Effects, Reply, Service, ServiceContext
from twd.racer.service import Racer
from twd.settings.model import EdgeConfig, Settings
from twd.wire.base import ModelId, NodeId
from twd.wire.job import JobSubmitted

IN_EVERY_MODE = pytest.mark.parametrize("mode", ["speculate", "gate", "consensus"])
"""For suites that must pass however a house serves."""
QUICK = ModelId("quick")


def ctx(broker: MemoryBroker, seed: int = 1) -> ServiceContext:
    """Surroundings on the memory broker, with seeded ids."""
    return ServiceContext(bus=broker.connect("n"), node=NodeId("n"), clock=SystemClock(), ids=Ids(random.Random(seed)))


class HeardGate(Gate):
    """A gate that remembers what it was asked."""

    heard: list[JobSubmitted]

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        self.heard.append(event)
        return super().on_job_submitted(event, reply)


@dataclass
class House:
    """An edge, its speculator, and a client for both."""

    broker: MemoryBroker
    edge: EdgeService
    speculator: FakeSpeculator
    http: aiohttp.ClientSession
    mode: str = "speculate"
    others: list[Service] = field(default_factory=list)

    @property
    def jobs(self) -> list[JobSubmitted]:
        """The clients' jobs, whoever got them."""
        judged = [job for one in self.others if isinstance(one, HeardGate) for job in one.heard]
        plain = [job for job in self.speculator.jobs if job.owner == self.edge.instance]
        return sorted([*plain, *judged], key=lambda job: job.at_ms)

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
def mode() -> str:
    """How a house serves; see IN_EVERY_MODE."""
    return "speculate"


@pytest.fixture
async def open_house(tmp_path: Path, mode: str) -> AsyncIterator[OpenHouse]:
    """Opens houses with the edge settings of a test; closes them all at its end."""
    houses: list[House] = []

    async def open_one(script: Script | None = None, **edge: object) -> House:
        broker = MemoryBroker()
        told: dict[str, object] = {"home": str(tmp_path), "edge": {"port": 0, **edge}}
        settings = msgspec.convert(told | settings_of(mode), Settings)
        assert isinstance(settings.edge, EdgeConfig)
        speculator = (FakeJudge if mode == "gate" else FakeSpeculator)(ctx(broker, 2), script)
        service = EdgeService(ctx(broker, 3), settings)
        await speculator.start()
        others = others_of(mode, broker, settings, speculator.script)
        for other in others:
            await other.start()
        await service.start()
        house = House(broker, service, speculator, aiohttp.ClientSession(), mode, others)
        houses.append(house)
        return house

    yield open_one
    for house in houses:
        await house.http.close()
        for service in (house.edge, *reversed(house.others), house.speculator):
            await service.stop()
        assert [one.fault for one in (house.edge, *house.others)] == [None] * (1 + len(house.others))


def settings_of(mode: str) -> dict[str, object]:
    """The settings of a house that serves in this mode."""
    if mode != "gate":
        return {"mode": mode}
    models = {name: {"path": f"{name}.gguf"} for name in (MODEL, QUICK)}
    return {"mode": mode, "models": models, "gate": {"fleet": [QUICK], "economy": False, "hold": 2, "audit": 0.0}}


def others_of(mode: str, broker: MemoryBroker, settings: Settings, script: Script) -> list[Service]:
    """The services of a mode: for a gate a member, too, that knows the same words."""
    if mode == "consensus":
        return [Racer(ctx(broker, 4))]
    if mode != "gate":
        return []
    member = Script(words=script.words, stop=script.stop, tail=script.tail, choose=script.choose)
    gate = HeardGate(ctx(broker, 5), settings)
    gate.heard = []
    return [FakeSpeculator(ctx(broker, 6), member, QUICK), gate]


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    """One house with the default settings."""
    return await open_house()
