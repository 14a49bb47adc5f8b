"""Agent and coordinator on a real broker, each with the rights of its role alone: nothing they need is refused."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.bus.deployed import Deployment
from tests.engine.tiny_models import write_llama
from tests.waiting import until
from twd.agent.service import AgentService
from twd.bus.nats.states import BusState
from twd.coordinator.service import CoordinatorService
from twd.engine.rpc.probe import OURS
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import (
    AgentConfig,
    CoordinatorConfig,
    GpuConfig,
    ModelConfig,
    PoolConfig,
    Settings,
    WorkerConfig,
)
from twd.wire.base import NodeId

pytestmark = pytest.mark.nats

MakeGround = Callable[[str, str], Awaitable[ServiceContext]]


@pytest.fixture
async def rights(tmp_path: Path) -> AsyncIterator[tuple[MakeGround, list[str]]]:
    deployment = Deployment(tmp_path / "broker")
    port = deployment.start("nats-server.conf")
    deployment.make_buckets(port)
    denials: list[str] = []
    contexts: list[ServiceContext] = []

    def on_event(state: BusState, detail: str) -> None:
        if state is BusState.DENIED:
            denials.append(detail)

    async def make(role: str, node: str) -> ServiceContext:
        bus = await deployment.connect(role, port, on_event, node)
        contexts.append(ServiceContext(bus, NodeId(node), SystemClock(), Ids(random.Random(len(contexts)))))
        return contexts[-1]

    yield make, denials
    for ctx in contexts:
        await ctx.bus.close()
    deployment.end()


async def test_a_pool_forms_loses_its_worker_and_is_given_up(
    rights: tuple[MakeGround, list[str]], tmp_path: Path
) -> None:
    make, denials = rights
    settings = Settings(
        home=str(tmp_path / "home"),
        mode="combined",
        agent=AgentConfig(port=0),
        coordinator=CoordinatorConfig(lease_s=2.0),
        pool=PoolConfig(
            engine="rpc",
            trusted_lan=True,
            gpus=(GpuConfig(vram_gb=0.01),),  # nothing fits at home, so a worker is needed
            workers=(WorkerConfig(host="node2", gpus=(GpuConfig(vram_gb=1),)),),
        ),
        models={"tiny": ModelConfig(path=str(write_llama(tmp_path / "tiny.gguf")), ctx_size=512, parallel=1)},
    )
    home = AgentService(await make("agent", "node1"), settings)
    attic = AgentService(await make("agent", "node2"), settings)
    coordinator = CoordinatorService(await make("coordinator", "node1"), settings)
    services = (home, attic, coordinator)
    for service in services:
        await service.start()
    await until(lambda: [facts.version for facts in attic._processes.facts()] == [str(OURS)], "the worker answers")
    assert home._processes.facts() == []
    assert coordinator.facts().placed == ["tiny"]
    await attic.stop("unplugged")
    await until(lambda: not coordinator.facts().placed, "the plan follows")
    for service in services:
        await service.stop("test ends")
        assert service.fault is None
    assert denials == []
