"""The doctor's looks at real programs, sockets and servers, and the command as a whole."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from click.testing import Result as Done

from tests.backends.fakes.openai_server import OpenAiServer
from tests.bus.conftest import NatsServer, nats_server
from tests.cli.running import Installed
from tests.edge.conftest import OpenHouse, mode, open_house
from tests.metrics.told import lease as told
from twd.cli.app import app
from twd.cli.common.api_address import ApiAddress
from twd.cli.doctor import command, probes
from twd.cli.doctor.findings import Finding, Severity
from twd.cli.doctor.programs import EngineBuild
from twd.kit.exit_codes import ExitCode
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.process.home import RunningInstance, StateFolder
from twd.settings.model import Settings
from twd.wire.leases.others import EdgeFacts

__all__ = ["mode", "nats_server", "open_house"]


def made(**fields: object) -> Settings:
    return msgspec.convert(fields, Settings)


# -- programs and ports ------------------------------------------------------------------------


def test_programs_of_this_installation() -> None:
    assert probes.nats_version().startswith("nats-server: v")
    build = probes.llama_build()
    assert build.problem == ""
    assert build.devices
    assert build.version == probes.wanted_llama()


def test_a_program_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ASK_LLAMA", "raise SystemExit('it is for another CPU')")
    assert probes.llama_build().problem == "it is for another CPU"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("twd.bus.broker.sysconfig.get_path", lambda name: "/nowhere")
    monkeypatch.setattr("twd.bus.broker.sys.prefix", "/nowhere")
    assert "not installed" in probes.nats_version()


def test_who_has_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        taken = probes.look_at_port("API port", "TWD_EDGE_PORT", "127.0.0.1", number)
        assert (taken.free, taken.owner_pid) == (False, os.getpid())
        assert taken.owner
        assert taken.spare not in (0, number)
    assert probes.look_at_port("API port", "TWD_EDGE_PORT", "127.0.0.1", number).free
    assert len(probes.needed_ports(Settings(), broker=True)) == 3
    assert probes.needed_ports(made(edge={"port": 0}, agent={"port": 0}), broker=False) == []
    outside = made(models={"a": {"path": "a"}, "b": {"path": "b"}}, pool={"engine": "llama-server"})
    assert [port.number for port in probes.needed_ports(outside, broker=False)][-2:] == [8090, 8091]


# -- bus, API, servers elsewhere ---------------------------------------------------------------


@pytest.mark.nats
async def test_the_bus_is_visited(nats_server: NatsServer) -> None:
    from twd.bus.nats.bus import NatsBus

    bus = await NatsBus.connect(nats_server.address, name="edge.box")
    lease = told("edge", node="box", facts=EdgeFacts(url="http://127.0.0.1:8088"))
    leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    await leases.put(lease.instance, msgspec.json.encode(lease))
    await leases.put("strange", b"{")
    look = await probes.look_at_bus(made(bus={"url": nats_server.url}), "box")
    assert (look.problem, [found for found, _ in look.leases]) == ("", [lease])
    assert look.rtt_ms > 0
    await bus.close()


async def test_a_bus_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "BUS_WAIT_S", 0.1)
    look = await probes.look_at_bus(made(bus={"url": "nats://127.0.0.1:1"}), "box")
    assert "127.0.0.1:1" in look.problem


async def test_the_api_is_asked(open_house: OpenHouse) -> None:
    house = await open_house(token="secret")
    look = await probes.look_at_api(ApiAddress(house.edge.url, "secret"))
    assert (look.problem, list(look.reasons)) == ("", [])
    await house.speculator.stop()
    look = await probes.look_at_api(ApiAddress(house.edge.url, "secret"))
    assert look.problem == ""
    assert look.reasons
    nobody = await probes.look_at_api(ApiAddress("http://127.0.0.1:1"))
    assert "cannot be reached" in nobody.problem


async def test_servers_elsewhere_are_asked() -> None:
    server = OpenAiServer()
    await server.start()
    try:
        with socket.create_server(("127.0.0.1", 0)) as agent:
            settings = made(
                backends={"good": {"url": server.url}, "gone": {"url": "http://127.0.0.1:1"}},
                drafters=[{"url": "http://127.0.0.1:1", "name": "d"}],
                pool={"workers": [{"host": "127.0.0.1", "peer_port": agent.getsockname()[1]}]},
            )
            good, gone, drafter, peer = await probes.look_elsewhere(settings)
    finally:
        await server.stop()
    assert good.problem == ""
    assert "'toy'" in good.use
    assert gone.problem
    assert gone.needed
    assert gone.mend == "curl -sS http://127.0.0.1:1/v1/models"
    assert (bool(drafter.problem), drafter.needed) == (True, False)
    assert peer.problem == ""
    (away,) = await probes.look_elsewhere(made(pool={"workers": [{"host": "127.0.0.1", "peer_port": 1}]}))
    assert "nobody answers" in away.problem


async def test_a_server_that_hangs_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ANSWER_S", 0.2)
    server = OpenAiServer()
    server.faults.mode = "hang"
    await server.start()
    try:
        (look,) = await probes.look_elsewhere(made(backends={"slow": {"url": server.url}}))
    finally:
        await server.stop()
    assert "does not answer within" in look.problem


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    """A state folder of its own, and no time spent on asking llama.cpp."""
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TWD_EDGE_PORT", "0")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probes, "llama_build", lambda: EngineBuild(probes.wanted_llama(), rpc=True, devices=["CPU"]))
    return StateFolder(tmp_path / "home")


def doctor(*arguments: str) -> Done:
    return CliRunner().invoke(app, arguments, standalone_mode=False)


def results(done: Done) -> dict[str, Any]:
    sections = json.loads(done.stdout)["sections"]
    return {result["name"]: result["status"] for section in sections for result in section["results"]}


def test_a_fresh_machine_passes(home: StateFolder) -> None:
    done = doctor("doctor", "--json")
    assert done.return_value == ExitCode.OK
    assert results(done)["models"] == "warn"
    assert results(done)["bus"] == "skip"
    shown = doctor("doctor")
    assert "$ twd up --demo" in shown.output


def test_a_broken_config_is_all_there_is_to_say(home: StateFolder, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("edge: 5\n")
    done = doctor("-c", str(tmp_path / "bad.yaml"), "doctor", "--json")
    assert done.return_value == ExitCode.UNHEALTHY
    assert results(done) == {"settings": "fail"}


def test_an_instance_that_has_just_started_is_told_of(home: StateFolder) -> None:
    home.prepare()
    held = home.acquire()
    try:
        home.write_instance(RunningInstance(pid=os.getpid(), born=0.0, started_ms=0, version="1", node="desk"))
        done = doctor("doctor", "--json")
    finally:
        os.close(held)
    assert done.exception is None
    assert results(done)["bus"] == "fail"
    assert "has just started" in done.stdout


def test_fix_mends_and_looks_again(home: StateFolder) -> None:
    home.prepare()
    home.path.chmod(0o755)
    assert doctor("doctor").return_value == ExitCode.UNHEALTHY
    done = doctor("doctor", "--fix", "--json")
    assert done.return_value == ExitCode.OK
    assert len(json.loads(done.stdout)["mended"]) == 1
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_mended_is_told() -> None:
    def refuse() -> None:
        raise PermissionError("not yours")

    assert command.mend([Finding("x", Severity.FAIL, "d", "m", refuse)]) == []


@pytest.mark.nats
def test_an_instance_without_models(house: Installed) -> None:
    done = house.twd("doctor", "--json")
    found = {result["name"]: result for section in json.loads(done.stdout)["sections"] for result in section["results"]}
    assert found["bus"]["status"] == "pass"
    assert found["API port"]["detail"].endswith("is ours")
    assert found["API"]["status"] == "fail"
    assert "no model is configured" in found["API"]["detail"]
    assert done.returncode == ExitCode.UNHEALTHY
