"""Agents on a bus in memory, with real processes and a real port."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.waiting import until
from twd.agent.service import AgentService
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import AgentConfig, Settings
from twd.wire.base import Event, NodeId
from twd.wire.codec import decode
from twd.wire.routes import EVERYTHING

StartAgent = Callable[..., Awaitable[AgentService]]


class Heard:
    """Everything that was said on a bus."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.events: list[Event] = []
        self._bus = broker.connect("ear")

    async def listen(self) -> None:
        await self._bus.subscribe(EVERYTHING, self._hear)

    def _hear(self, message: Any) -> None:
        event = decode(message.data)
        assert isinstance(event, Event), event
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def heard(broker: MemoryBroker) -> Heard:
    heard = Heard(broker)
    await heard.listen()
    return heard


@pytest.fixture
async def start_agent(broker: MemoryBroker, tmp_path: Path) -> AsyncIterator[StartAgent]:
    started: list[AgentService] = []

    async def start(node: str = "desk", pid: int = 0, **settings: Any) -> AgentService:
        ctx = ServiceContext(
            bus=broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids(random.Random(len(started)))
        )
        if pid:
            ctx = ServiceContext(ctx.bus, ctx.node, ctx.clock, ctx.ids, pid=pid)
        made = Settings(home=str(tmp_path / f"home{len(started)}"))
        made = msgspec.structs.replace(made, **{"agent": AgentConfig(port=0), **settings})
        agent = AgentService(ctx, made)
        started.append(agent)
        await agent.start()
        await until(lambda: not agent._facts().looking, "it looked round")
        return agent

    yield start
    for agent in started:
        await agent.stop("test ends")
