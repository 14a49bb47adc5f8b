"""Stages that an agent keeps alive: ports of their own, ready when they listen, tried again when they fail."""

import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

from tests.agent.conftest import StartAgent
from tests.agent.test_agent_service import ask, wish
from tests.engine.tiny_models import write_llama
from tests.waiting import until
from twd.agent.service import AgentService
from twd.bus.memory.bus import MemoryBroker
from twd.process.compute import SEVERAL_HIP
from twd.process.home import RunningInstance, StateFolder
from twd.settings.model import AgentConfig, EngineConfig, PoolConfig
from twd.wire.node import ProcessFacts, ProcessKind, ProcessWanted, StageWanted

PYTHON = (sys.executable, "-S", "-c")
LOADS = "import time; time.sleep(600)"

AgentOf = Callable[..., Awaitable[AgentService]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has stages run a script instead; it is told its port."""

    def script(text: str) -> None:
        def argv(wanted: ProcessWanted, file: object, host: str, port: int) -> tuple[str, ...]:
            return (*PYTHON, text, "--port", str(port))

        monkeypatch.setattr("twd.agent.processes.stage_argv", argv)

    return script


@pytest.fixture
async def agent_of(start_agent: StartAgent, tmp_path: Path) -> AgentOf:
    """An agent whose machine has a model."""

    async def agent_of(**settings: Any) -> AgentService:
        write_llama(tmp_path / "tiny.gguf")
        agent = await start_agent(agent=AgentConfig(port=0, model_dirs=(str(tmp_path),)), **settings)
        await until(lambda: agent._facts().models, "the file is found")
        return agent

    return agent_of


async def start(broker: MemoryBroker, agent: AgentService, first: int) -> ProcessFacts:
    """A stage of one layer."""
    stage = StageWanted(model="tiny", file="tiny.gguf", hash=agent._facts().models[0].hash, first=first, end=first + 1)
    answer = await ask(broker, wish(process=f"stage.pool.tiny.{first}", kind=ProcessKind.STAGE, stage=stage))
    assert answer.failure is None
    assert answer.facts is not None
    return answer.facts


async def test_stages_that_load_at_the_same_time_have_ports_of_their_own(
    broker: MemoryBroker, agent_of: AgentOf, scripted: Callable[[str], None]
) -> None:
    scripted(LOADS)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        agent = await agent_of(pool=PoolConfig(stage_port=port))
        ports = [(await start(broker, agent, first)).port for first in range(3)]
    assert len({*ports, port}) == 4
    answer = await ask(broker, wish(port=ports[0]))
    assert answer.failure is not None
    assert "it belongs to a process that starts" in answer.failure.message


async def test_a_stage_is_no_rpc_worker_that_the_peer_api_ends(
    broker: MemoryBroker, agent_of: AgentOf, scripted: Callable[[str], None]
) -> None:
    scripted(LOADS)
    agent = await agent_of()
    facts = await start(broker, agent, 0)
    async with aiohttp.ClientSession() as http:
        reply = await http.post(f"{agent._peer_url}/v1/peer/rpc/stop", json={"port": facts.port})
    assert reply.status == 404
    assert [known.process for known in agent._processes.facts()] == [facts.process]


async def test_a_stage_is_ready_when_it_listens_itself(
    broker: MemoryBroker, agent_of: AgentOf, scripted: Callable[[str], None]
) -> None:
    scripted(LOADS)
    agent = await agent_of()
    facts = await start(broker, agent, 0)
    await until(lambda: agent._processes.facts()[0].state == "starting", "it loads")
    with socket.create_server(("127.0.0.1", facts.port)):
        await agent._processes.watch()
    assert agent._processes.facts()[0].state == "starting", "somebody else listens there"


@pytest.mark.parametrize("cards", [1, 2])
async def test_where_several_amd_cards_are_found_a_process_gets_what_they_need(
    broker: MemoryBroker,
    agent_of: AgentOf,
    scripted: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    cards: int,
) -> None:
    scripted(LOADS)
    monkeypatch.setattr("twd.agent.environment.amd_cards", lambda: cards)
    agent = await agent_of(engine=EngineConfig(backend="hip"))
    await start(broker, agent, 0)
    await until(lambda: agent._processes.facts()[0].pid, "it runs")
    environment = psutil.Process(agent._processes.facts()[0].pid).environ()
    assert (environment.items() >= SEVERAL_HIP.items()) is (cards > 1)


REFUSES = """
import json, sys
print(json.dumps({"level": "error", "text": "slices of tiny models begin at a multiple of 4 layers"}), flush=True)
sys.exit(6)
"""
LISTENS = """
import socket, sys, time
try:
    held = socket.create_server(("127.0.0.1", int(sys.argv[-1])))
except OSError as error:
    sys.exit(f"a stage cannot listen: {error}")
time.sleep(600)
"""


async def test_a_stage_that_cannot_load_is_tried_again_and_its_reason_stays_in_sight(
    broker: MemoryBroker, agent_of: AgentOf, scripted: Callable[[str], None]
) -> None:
    scripted(REFUSES)
    agent = await agent_of()
    await start(broker, agent, 0)
    await until(lambda: agent._processes.facts()[0].restarts >= 2, "it is tried again")
    assert agent._processes.facts()[0].note == "slices of tiny models begin at a multiple of 4 layers"


async def test_a_stage_whose_port_was_taken_comes_up_on_another(
    broker: MemoryBroker, agent_of: AgentOf, scripted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(LISTENS)
    agent = await agent_of()
    with socket.create_server(("127.0.0.1", 0)) as held:
        taken = held.getsockname()[1]
        with monkeypatch.context() as patch:
            patch.setattr(agent._processes, "_stage_port", lambda: taken)
            assert (await start(broker, agent, 0)).port == taken
        await until(lambda: agent._processes.facts()[0].state == "ready", "it listens")
        assert agent._processes.facts()[0].port != taken


async def test_a_swarm_service_is_started_when_it_is_wished_for(
    broker: MemoryBroker, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.agent.processes.OURS", (*PYTHON, LOADS))
    agent = await start_agent(agent=AgentConfig(port=0))
    answer = await ask(broker, wish(process="swarm", kind=ProcessKind.SWARM))
    assert answer.failure is None
    assert answer.facts is not None
    await until(lambda: agent._facts().processes[0].pid, "the process runs")
    command = psutil.Process(agent._facts().processes[0].pid).cmdline()
    assert command[-2:] == ["run", "swarm"]


async def test_a_swarm_service_that_a_supervisor_keeps_is_not_started_twice(
    broker: MemoryBroker, start_agent: StartAgent
) -> None:
    agent = await start_agent(agent=AgentConfig(port=0))
    home = StateFolder(agent._settings.home_dir)
    home.prepare()
    lock = home.acquire()
    about = {"pid": 1, "born": 1.0, "started_ms": 1, "version": "1", "node": "n"}
    home.write_instance(msgspec.convert({**about, "processes": {"swarm": 1}}, RunningInstance))
    answer = await ask(broker, wish(process="swarm", kind=ProcessKind.SWARM))
    assert answer.failure is not None
    assert "twd up" in answer.failure.message
    os.close(lock)
    assert not home.keeps("swarm"), "that supervisor has ended"


async def test_beside_a_service_that_listens_nowhere_a_stage_finds_a_port(
    broker: MemoryBroker, agent_of: AgentOf, scripted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(LOADS)
    monkeypatch.setattr("twd.agent.processes.OURS", (*PYTHON, LOADS))
    agent = await agent_of()
    assert (await ask(broker, wish(process="swarm", kind=ProcessKind.SWARM))).failure is None
    assert (await start(broker, agent, 0)).port
