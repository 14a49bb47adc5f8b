"""The agent on the bus: tells its machine, holds its name, keeps workers alive."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from tests.agent.conftest import Heard, StartAgent
from tests.engine.tiny_models import write_llama
from tests.signed import signed
from tests.waiting import alive, until
from twd.agent.probes.cpu import memory_facts
from twd.agent.service import AgentService
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.engine.rpc.probe import OURS, probe
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.ring.trust import make_identity
from twd.ring.tunnel import TunnelEntry
from twd.settings.model import AgentConfig, BinariesConfig, PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import (
    DrafterWanted,
    NodeChanged,
    NodeFacts,
    ProcessAnswered,
    ProcessKind,
    ProcessStarted,
    ProcessStopped,
    ProcessUnwanted,
    ProcessWanted,
    StageWanted,
    read_node,
)
from twd.wire.routes import subject_of
from twd.wire.service import ServiceExited, ServiceLease

DESK = NodeId("desk")


def wish(**fields: Any) -> ProcessWanted:
    return ProcessWanted(**{"node": DESK, "process": "rpc.test", "kind": ProcessKind.RPC, "threads": 1, **fields})


async def ask(broker: MemoryBroker, event: ProcessWanted | ProcessUnwanted) -> ProcessAnswered:
    data = await broker.connect("asker").request(subject_of(signed(event)), encode(signed(event)), timeout_s=60)
    answer = decode(data)
    assert isinstance(answer, ProcessAnswered)
    return answer


async def registered(broker: MemoryBroker) -> list[NodeFacts]:
    leases = await broker.connect("reader").leases(LEASE_BUCKET, LEASE_TTL_S)
    return [facts for entry in await leases.entries() if (facts := read_node(entry.value, entry.key)) is not None]


async def test_a_machine_stands_in_an_empty_registry_as_soon_as_the_bus_is_back(
    broker: MemoryBroker, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.agent.service.BEATS", 1e-6)  # it would register again after weeks
    agent = await start_agent()
    leases = await broker.connect("broker").leases(LEASE_BUCKET, LEASE_TTL_S)
    assert isinstance(agent.bus, MemoryBus)
    agent.bus.cut_off = True
    for entry in await leases.entries():
        await leases.delete(entry.key)
    agent.bus.cut_off = False
    await until(lambda: "register again" not in " ".join(agent.tasks.names), "it registered")
    assert [facts.node for facts in await registered(broker)] == [DESK]


async def test_a_machine_is_told_once_and_stands_in_the_registry(
    broker: MemoryBroker, heard: Heard, start_agent: StartAgent
) -> None:
    agent = await start_agent()
    await until(lambda: heard.of(NodeChanged), "the machine is told")
    (told,) = heard.of(NodeChanged)
    assert told.facts.cpu.cores >= 1
    assert told.facts.memory.total > 0
    assert told.facts.builds[0].rpc == str(OURS)
    assert told.facts.peer_url.startswith("http://127.0.0.1:")
    (listed,) = await registered(broker)
    assert (listed.node, listed.instance) == ("desk", agent.instance)
    await agent.stop("leaves")
    assert await registered(broker) == []


async def test_free_memory_is_told_as_it_is_now_with_the_processes_of_now(
    start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await start_agent()
    seen = memory_facts()
    now = msgspec.structs.replace(seen, available=seen.available // 2)
    monkeypatch.setattr("twd.agent.service.memory_facts", lambda: now)
    assert agent._facts().memory == now


async def test_the_second_agent_of_a_name_is_refused(start_agent: StartAgent) -> None:
    first = await start_agent()
    with pytest.raises(TwdError, match=rf"an agent \(pid {os.getpid()}\) looks after this machine") as told:
        await start_agent(pid=1)
    assert told.value.code is FailureCode.FORBIDDEN
    assert first.fault is None
    await start_agent("attic")


async def test_what_a_killed_agent_left_is_taken_over_at_once(broker: MemoryBroker, start_agent: StartAgent) -> None:
    gone = max(psutil.pids()) + 100_000
    await start_agent(pid=gone)
    second = await start_agent()
    (listed,) = await registered(broker)
    assert listed.instance == second.instance


async def test_a_worker_runs_answers_comes_back_and_ends(
    broker: MemoryBroker, heard: Heard, start_agent: StartAgent
) -> None:
    agent = await start_agent()
    answer = await ask(broker, wish())
    assert answer.failure is None
    facts = answer.facts
    assert facts is not None
    assert (facts.state, facts.host, facts.version) == ("ready", "127.0.0.1", str(OURS))
    assert await probe(facts.host, facts.port) == OURS
    assert (await ask(broker, wish())).facts == facts, "asking twice changes nothing"
    (registered_now,) = await registered(broker)
    assert [process.process for process in registered_now.processes] == ["rpc.test"]

    os.kill(facts.pid, signal.SIGKILL)
    await until(lambda: heard.of(ServiceExited), "its end is told")
    assert (heard.of(ServiceExited)[0].service, heard.of(ServiceExited)[0].exit_code) == ("rpc.test", -9)

    await until(lambda: agent._processes.facts()[0].restarts, "it was started again")
    await until(lambda: agent._processes.facts()[0].state == "ready", "it answers again")
    again = agent._processes.facts()[0]
    assert (again.state, again.port, again.restarts) == ("ready", facts.port, 1)

    assert (await ask(broker, ProcessUnwanted(node=DESK, process="rpc.test"))).failure is None
    assert not alive(again.pid)
    await until(lambda: heard.of(ProcessStopped), "its end is told")
    assert len(heard.of(ProcessStarted)) == 1
    assert (await ask(broker, ProcessUnwanted(node=DESK, process="rpc.test"))).failure is None, "no error either"


async def test_workers_end_with_their_agent(broker: MemoryBroker, start_agent: StartAgent) -> None:
    agent = await start_agent()
    facts = (await ask(broker, wish())).facts
    assert facts is not None
    await agent.stop("leaves")
    assert not alive(facts.pid)


REFUSED: list[tuple[dict[str, Any], FailureCode, str]] = [
    ({"kind": ProcessKind.DRAFTER}, FailureCode.BAD_REQUEST, "needs to know its model"),
    (
        {"kind": ProcessKind.DRAFTER, "drafter": DrafterWanted(name="q", path="/etc/passwd")},
        FailureCode.MODEL_NOT_FOUND,
        "there is no copy of /etc/passwd on this machine",
    ),
    ({"program": "bash"}, FailureCode.FORBIDDEN, "this machine does not run 'bash'"),
    ({"program": "/bin/sh"}, FailureCode.FORBIDDEN, "agent.binaries.allow"),
    ({"program": "rpc-server"}, FailureCode.UNSUPPORTED, "is not there"),
    ({"process": "../../etc/x"}, FailureCode.BAD_REQUEST, "is no name for a process"),
    ({"program": "broken"}, FailureCode.WORKER_LOST, "ended as soon as it started"),
]


async def test_what_cannot_be_run_is_refused_with_the_reason(
    broker: MemoryBroker, start_agent: StartAgent, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    binaries = BinariesConfig(rpc_server=str(tmp_path / "rpc-server"), allow=(str(broken),))
    agent = await start_agent(agent=AgentConfig(port=0, binaries=binaries))
    for fields, code, text in REFUSED:
        answer = await ask(broker, wish(**fields))
        assert answer.facts is None
        assert answer.failure is not None
        assert (answer.failure.code, text in answer.failure.message) == (code, True), (fields, answer.failure)
    assert agent._processes.facts() == []
    assert not agent._processes._changing, "nothing of them stays"


OURS_AS_THEIRS = """#!/bin/sh
exec {python} -P -m twd.engine.rpc.worker --host "$2" --port "$4" --threads 1
"""


async def test_workers_are_the_program_that_the_settings_name(
    broker: MemoryBroker, start_agent: StartAgent, tmp_path: Path
) -> None:
    server = tmp_path / "rpc-server"
    server.write_text(OURS_AS_THEIRS.format(python=sys.executable))
    server.chmod(0o755)
    await start_agent(agent=AgentConfig(port=0, binaries=BinariesConfig(rpc_server=str(server))))
    theirs = await ask(broker, wish())
    assert theirs.facts is not None, theirs.failure
    assert (theirs.facts.program, theirs.facts.state) == (str(server), "ready")
    assert (await ask(broker, wish())).facts == theirs.facts, "asking twice changes nothing"
    own = await ask(broker, wish(process="rpc.own", program="engine"))
    assert own.facts is not None
    assert own.facts.program == "engine"


async def test_workers_listen_for_this_machine_unless_the_owner_trusts_the_lan(start_agent: StartAgent) -> None:
    careful: AgentService = await start_agent(pool=PoolConfig(host="0.0.0.0"))
    assert careful._processes.rpc_host == "127.0.0.1"
    open_one: AgentService = await start_agent("attic", pool=PoolConfig(host="0.0.0.0", trusted_lan=True))
    assert open_one._processes.rpc_host == "0.0.0.0"


async def test_other_machines_come_to_a_worker_by_an_encrypted_way(
    broker: MemoryBroker, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.agent.processes.is_loopback", lambda host: False)
    agent = await start_agent()
    facts = (await ask(broker, wish())).facts
    assert facts is not None
    assert facts.cert.startswith("-----BEGIN CERTIFICATE-----")
    home = make_identity("home")
    entry = TunnelEntry(home, facts.host, facts.port, facts.cert)
    with pytest.raises(TwdError):
        await probe("127.0.0.1", await entry.start())
    await entry.close()
    lease = ServiceLease(
        service="speculator",
        instance=InstanceId(f"speculator.{DESK}.y"),
        node=DESK,
        pid=1,
        version="1",
        started_ms=0,
        renewed_ms=0,
        facts=SpeculatorFacts(certificate=home.certificate),
    )
    leases = await broker.connect("speculator").leases(LEASE_BUCKET, LEASE_TTL_S)
    await leases.put(lease.instance, msgspec.json.encode(lease))
    await until(lambda: home.certificate in agent._processes._admitted, "its certificate is known")
    entry = TunnelEntry(home, facts.host, facts.port, facts.cert)
    assert await probe("127.0.0.1", await entry.start()) == OURS
    await entry.close()


async def test_a_worker_that_was_stopped_is_ended_and_comes_back(broker: MemoryBroker, start_agent: StartAgent) -> None:
    agent = await start_agent()
    facts = (await ask(broker, wish())).facts
    assert facts is not None
    os.kill(facts.pid, signal.SIGSTOP)
    await until(lambda: agent._processes.facts()[0].restarts, "another one was started")
    await until(lambda: agent._processes.facts()[0].state == "ready", "it answers")
    assert not alive(facts.pid)


async def test_a_stage_of_another_file_is_refused_with_both_hashes(
    broker: MemoryBroker, start_agent: StartAgent, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    await start_agent(agent=AgentConfig(port=0, model_dirs=(str(tmp_path),)))
    stage = StageWanted(model="tiny", file="tiny", hash="f" * 32, end=1)
    answer = await ask(broker, wish(process="stage.pool.tiny.0-1", kind=ProcessKind.STAGE, stage=stage))
    assert answer.failure is not None
    assert answer.failure.code is FailureCode.MODEL_NOT_FOUND
    assert f"{path} is another file than the one that is wanted" in answer.failure.message
    assert "ffffffff there" in answer.failure.message
    none = await ask(broker, wish(kind=ProcessKind.STAGE, stage=StageWanted(model="x", file="x", hash="e", end=1)))
    assert none.failure is not None
    assert "there is no copy of x on this machine" in none.failure.message


async def test_a_drafter_runs_over_this_machines_copy_and_is_started_again(
    broker: MemoryBroker, start_agent: StartAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "waits"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    asked: list[str] = []

    def told(wanted: ProcessWanted, path: str) -> tuple[str, ...]:
        asked.append(path)
        return (str(script),)

    monkeypatch.setattr("twd.agent.processes.drafter_argv", told)
    path = write_llama(tmp_path / "tiny.gguf")
    agent = await start_agent(agent=AgentConfig(port=0, model_dirs=(str(tmp_path),)))
    await until(lambda: agent._facts().models, "the file is found")
    drafter = DrafterWanted(name="tiny", path="/elsewhere/tiny.gguf", hash=agent._facts().models[0].hash)
    answer = await ask(broker, wish(process="drafter.pool.tiny.0", kind=ProcessKind.DRAFTER, drafter=drafter))
    assert answer.failure is None
    assert asked == [str(path)]
    await until(lambda: agent._processes.facts()[0].state == "ready", "it runs")
    os.kill(agent._processes.facts()[0].pid, signal.SIGKILL)
    await until(lambda: agent._processes.facts()[0].restarts, "it was started again")
    await until(lambda: agent._processes.facts()[0].state == "ready", "it runs again")
