"""The peer API over HTTP: what it tells, what it starts, whom it turns away."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.agent.conftest import StartAgent
from tests.engine.tiny_models import write_llama
from twd.agent.log_tail import tail
from twd.agent.moe_profile import profile
from twd.agent.service import AgentService
from twd.own_certificate import read_or_make_certificate
from twd.settings.model import AgentConfig
from twd.wire.failures import FailureCode, TwdError


def url(agent: AgentService, path: str) -> str:
    return f"{agent._peer_url}/v1/peer/{path}"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def get(http: aiohttp.ClientSession, agent: AgentService, path: str, **kwargs: Any) -> tuple[int, Any]:
    async with http.get(url(agent, path), **kwargs) as reply:
        return reply.status, await reply.json()


async def post(http: aiohttp.ClientSession, agent: AgentService, path: str, **kwargs: Any) -> tuple[int, Any]:
    async with http.post(url(agent, path), **kwargs) as reply:
        return reply.status, await reply.json()


async def test_it_tells_what_the_machine_is(
    http: aiohttp.ClientSession, start_agent: StartAgent, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    write_llama(tmp_path / "models" / "tiny.gguf")
    agent = await start_agent(agent=AgentConfig(port=0, model_dirs=(str(tmp_path / "models"),)))
    status, version = await get(http, agent, "version")
    assert status == 200
    assert {"twd_version", "llama_server_version", "platform", "machine", "hostname", "builds"} <= version.keys()
    _, health = await get(http, agent, "health")
    assert health["status"] == "ok"
    assert health["memory"]["total_mb"] >= health["memory"]["available_mb"] > 0
    assert len(health["load_avg"]) == 3
    _, gpu = await get(http, agent, "gpu")
    assert isinstance(gpu["gpus"], list)
    _, models = await get(http, agent, "models")
    assert [model["name"] for model in models["models"]] == ["tiny"]
    _, digest = await get(http, agent, "models?sha256=tiny")
    assert len(digest["sha256"]) == 64
    _, processes = await get(http, agent, "processes")
    assert processes == {"processes": []}


async def test_a_worker_is_started_listed_and_stopped(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    status, started = await post(http, agent, "rpc/start", json={"port": port, "threads": 1})
    assert (status, started["status"], started["port"]) == (200, "running", port)
    _, listed = await get(http, agent, "processes")
    assert [process["port"] for process in listed["processes"]] == [port]
    _, log = await get(http, agent, f"logs?service=rpc.{port}")
    assert any("lends" in line for line in log["lines"])
    status, told = await get(http, agent, f"moe/profile?port={port}")
    assert status == 404
    assert "tells of no experts" in told["error"]["message"]
    assert (await post(http, agent, "rpc/stop", json={"port": port}))[1] == {"status": "stopped", "port": port}
    status, told = await post(http, agent, "rpc/stop", json={"port": port})
    assert status == 404


async def test_a_worker_behind_a_tunnel_is_found_by_the_port_that_was_told(
    http: aiohttp.ClientSession, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.agent.processes.is_loopback", lambda host: False)
    agent = await start_agent()
    _, started = await post(http, agent, "rpc/start", json={"port": 0, "threads": 1})
    port = started["port"]
    assert started["process"] != f"rpc.{port}", "the worker itself listens elsewhere"
    status, told = await get(http, agent, f"moe/profile?port={port}")
    assert (status, "tells of no experts" in told["error"]["message"]) == (404, True)
    assert (await post(http, agent, "rpc/stop", json={"port": port}))[1] == {"status": "stopped", "port": port}
    assert agent._processes.facts() == []


async def test_every_free_port_that_is_asked_for_is_another_worker(
    http: aiohttp.ClientSession, start_agent: StartAgent
) -> None:
    agent = await start_agent()
    started = [(await post(http, agent, "rpc/start", json={"port": 0, "threads": 1}))[1] for _ in range(2)]
    assert len({one["port"] for one in started}) == 2
    assert [one["process"] for one in started] == [f"rpc.{one['port']}" for one in started]
    assert (await get(http, agent, "moe/profile"))[0] == 400, "no port is nobody's"


BAD_BODIES = [
    (b"[1,2]", 400, "Expected `object`"),
    (b"{", 400, "cannot be used"),
    (b"\xff\xfe", 400, "cannot be used"),
    (b'{"port": "x"}', 400, "$.port"),
    (b'{"port": 80}', 400, "$.port"),
    (b'{"port": 99999}', 400, "$.port"),
    (b'{"binary": 5}', 400, "$.binary"),
    (b'{"binary": "bash"}', 403, "does not run 'bash'"),
    (b'{"binary": "../../bin/sh"}', 403, "does not run"),
    (b'{"command": "rm"}', 400, "command"),
    (b'{"threads": -1}', 400, "$.threads"),
    (b" " * 70_000, 413, "larger than"),
]


async def test_bad_bodies_start_nothing(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent()
    for body, status, text in BAD_BODIES:
        found, told = await post(http, agent, "rpc/start", data=body)
        assert (found, text in told["error"]["message"]) == (status, True), (body[:50], told)
    assert agent._processes.facts() == []


async def test_a_program_that_may_not_run_is_refused_as_such_even_where_its_port_is_taken(
    http: aiohttp.ClientSession, start_agent: StartAgent
) -> None:
    agent = await start_agent()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asked = {"binary": "bash", "port": taken.getsockname()[1]}
        found, told = await post(http, agent, "rpc/start", json=asked)
    assert found == 403, told


BAD_QUESTIONS = [
    ("logs?lines=0", 400),
    ("logs?lines=5000", 400),
    ("logs?service=../../../etc/passwd", 400),
    ("logs?colour=red", 400),
    ("models?sha256=nothing", 404),
    ("moe/profile?port=1", 400),
    ("moe/profile?port=x", 400),
    ("nonsense", 404),
    ("rpc/start", 405),
]


async def test_bad_questions_are_told_so(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent()
    for path, status in BAD_QUESTIONS:
        found, told = await get(http, agent, path)
        assert (found, bool(told["error"]["message"])) == (status, True), path


async def test_with_a_token_nobody_enters_without(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent(agent=AgentConfig(port=0, token="s3cret"))
    assert (await get(http, agent, "version"))[0] == 401
    assert (await get(http, agent, "version", headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await get(http, agent, "version", headers={"Authorization": "Bearer s3cret"}))[0] == 200


async def test_guessing_tokens_is_slowed_down(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent(agent=AgentConfig(port=0, token="s3cret"))
    found = [(await get(http, agent, "version", headers={"Authorization": f"Bearer {i}"}))[0] for i in range(12)]
    assert set(found) == {401, 429}


async def test_web_pages_are_turned_away(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent()
    assert (await get(http, agent, "version", headers={"Origin": "http://evil.example"}))[0] == 403
    assert (await get(http, agent, "version", headers={"Host": "rebound.example"}))[0] == 403
    assert (await get(http, agent, "version", headers={"Host": "localhost:9191"}))[0] == 200


async def test_off_loopback_it_wants_a_token(start_agent: StartAgent) -> None:
    with pytest.raises(TwdError, match="no token is set") as told:
        await start_agent(agent=AgentConfig(host="0.0.0.0", port=0))
    assert told.value.code is FailureCode.FORBIDDEN
    await start_agent("desk", agent=AgentConfig(host="0.0.0.0", port=0, token="s3cret"))


async def test_off_loopback_it_speaks_https_by_a_certificate_of_its_own(
    http: aiohttp.ClientSession, start_agent: StartAgent
) -> None:
    agent = await start_agent(agent=AgentConfig(host="0.0.0.0", port=0, token="s3cret"))
    assert agent._peer_url.startswith("https://")
    here = f"127.0.0.1:{agent._peer_url.rpartition(':')[2]}/v1/peer/health"
    pin = read_or_make_certificate(agent._settings.home_dir, []).fingerprint
    bearer = {"Authorization": "Bearer s3cret"}
    async with http.get(f"https://{here}", ssl=aiohttp.Fingerprint(bytes.fromhex(pin)), headers=bearer) as reply:
        assert reply.status == 200
    with pytest.raises(aiohttp.ClientError):
        await http.get(f"http://{here}", headers=bearer)


async def test_it_goes_without_only_where_that_is_said(http: aiohttp.ClientSession, start_agent: StartAgent) -> None:
    agent = await start_agent(agent=AgentConfig(host="0.0.0.0", port=0, token="s3cret", allow_plaintext=True))
    here = f"http://127.0.0.1:{agent._peer_url.rpartition(':')[2]}/v1/peer/health"
    async with http.get(here, headers={"Authorization": "Bearer s3cret"}) as reply:
        assert reply.status == 200


async def test_a_taken_port_on_loopback_costs_only_the_number(start_agent: StartAgent) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        agent = await start_agent(agent=AgentConfig(port=port))
        assert agent._server is not None
        assert agent._server.port not in (0, port)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {i}\n" for i in range(50)))
    assert tail(log, 2) == ["line 48", "line 49"]


def test_experts_are_counted_by_layer() -> None:
    lines = ["moe: layer=0 chosen=[1,2]", "moe: layer=0 chosen=[1,3]", "noise", "moe: layer=1 chosen=[7]"]
    counted = profile(lines)
    assert counted is not None
    assert counted["total_tokens"] == 2
    assert counted["top_experts"][0] == {"layer": 0, "expert": 1, "hits": 2}
    assert counted["per_layer_skew"] == {"0": 0.5, "1": 1.0}
    assert profile(["noise"]) is None
