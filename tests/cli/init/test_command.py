"""`twd init` over fake servers on the loopback: what it finds, what it writes, and what it refuses."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.backends.fakes.gpu_servers import FakeVllm
from tests.backends.fakes.llama_server import FakeLlamaServer
from tests.backends.fakes.ollama_server import FakeOllama
from tests.backends.fakes.server import Farm
from tests.bus.conftest import NatsServer, nats_server
from tests.cli.running import Installed
from tests.engine.sliceable_models import write_sliceable
from tests.gguf_tools.test_inspect import write
from twd.cli.app import run
from twd.cli.init.scan import find_files, models_at, scan
from twd.gguf_tools.slice import write_slice
from twd.kit.exit_codes import ExitCode

__all__ = ["nats_server"]


def port(url: str) -> int:
    return urlsplit(url).port or 0


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    made = Farm()
    yield made
    await made.close()


async def test_servers_of_every_kind_are_found_on_a_small_network(farm: Farm) -> None:
    servers = [FakeLlamaServer(), FakeOllama(), FakeVllm()]
    for server in servers:
        await farm.add(server)
    looked: list[int] = []
    hosts = [f"127.0.0.{number}" for number in range(1, 7)]
    found = await scan(hosts, [port(server.url) for server in servers], looked.append)
    assert sum(looked) == len(hosts) * len(servers)
    here = {one.url: one for one in found if "127.0.0.1:" in one.url}
    assert {one.kind for one in here.values()} == {"llamacpp", "ollama", "vllm"}
    assert here[servers[0].url].parameters == 1000
    assert here[servers[2].url].scores
    assert not here[servers[1].url].scores


async def test_something_else_that_listens_is_left_aside(farm: Farm) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server:
        number = server.sockets[0].getsockname()[1]
        assert await scan(["127.0.0.1"], [number], lambda _: None) == []
        assert await models_at(f"http://127.0.0.1:{number}") == []


def test_files_are_found_once_and_broken_ones_say_why(tmp_path: Path) -> None:
    whole = write(tmp_path / "one.gguf")
    (tmp_path / "link.gguf").symlink_to(whole)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    found, _ = find_files([tmp_path, tmp_path / "missing"])
    assert len([one for one in found if not one.problem]) == 1
    assert [one.name for one in found if one.problem] == ["broken"]
    assert find_files([]) == ([], [])


def test_a_slice_is_no_model_to_serve(tmp_path: Path) -> None:
    whole = write_sliceable("llama", tmp_path)
    write_slice(whole, 0, 3, tmp_path / "piece.gguf", head=False)
    found, _ = find_files([tmp_path])
    assert [one.problem for one in found if one.name == "piece"] == ["it is a slice of a model"]


@pytest.mark.slow
async def test_a_named_server_becomes_a_configuration_that_can_be_used(
    farm: Farm, installations: Callable[[], Installed]
) -> None:
    vllm, ollama = FakeVllm(), FakeOllama()
    await farm.add(vllm)
    await farm.add(ollama)
    here = installations()
    named = ("--target-url", vllm.url, "--draft-url", ollama.url, "--json")
    done = await asyncio.to_thread(here.twd, "init", *named)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["target"]["kind"] == "vllm"
    assert told["drafters"][0]["kind"] == "ollama"
    check = await asyncio.to_thread(here.twd, "config", "check")
    assert check.returncode == 0, check.stdout + check.stderr
    again = await asyncio.to_thread(here.twd, "init", *named)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert (await asyncio.to_thread(here.twd, "init", *named, "--force")).returncode == 0


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process, with a folder of their own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("broken", ["twd.yaml", "other.yaml"])
def test_settings_that_cannot_be_used_are_no_hindrance(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "twd.yaml").write_text("edge: 5\n")
    config = () if broken == "twd.yaml" else ("-c", broken)
    assert run([*config, "init", "--target-url", "http://127.0.0.1:9", "--force"]) == ExitCode.OK
    assert "cannot be used" in capsys.readouterr().err
    assert "http://127.0.0.1:9" in (tmp_path / broken).read_text()


@pytest.mark.usefixtures("apart")
def test_a_file_with_a_blank_in_its_name_can_be_copied_from_the_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--target-url", "http://127.0.0.1:9", "-o", "~no-such-user's x.yaml"]) == ExitCode.OK
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line.partition("with: ")[2]) == ["twd", "-c", "~no-such-user's x.yaml", "up"]


@pytest.mark.slow
def test_files_of_a_folder_are_proposed(installed: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder / "mine.gguf")
    output = tmp_path / "new" / "own.yaml"
    done = installed.twd("init", "--local", "--models", str(folder), "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert f"twd -c {output} up" in done.stdout
    assert str(folder / "mine.gguf") in output.read_text()
    assert installed.twd("-c", str(output), "config", "check").returncode == 0


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.nats
def test_machines_on_the_bus_are_told_and_their_bus_is_kept(
    nats_server: NatsServer, installations: Callable[[], Installed], tmp_path: Path
) -> None:
    here, elsewhere = installations(), installations()
    elsewhere.env |= {"TWD_BUS_URL": nats_server.url, "TWD_NODE": "shelf", "TWD_AGENT_PORT": "0"}
    here.env |= {"TWD_BUS_URL": nats_server.url}
    elsewhere.up("agent")
    write(tmp_path / "mine.gguf")
    done = here.twd("init", "--local", "--models", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert [machine["node"] for machine in json.loads(done.stdout)["machines"]] == ["shelf"]
    assert nats_server.url in (here.home.parent / "twd.yaml").read_text()
    assert elsewhere.twd("down").returncode == 0


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--subnet", "10.0.0.0/8"), "Name smaller networks"),
        (("--subnet", "here"), "is no network"),
        (("--local", "--subnet", "10.0.0.0/24"), "exclude each other"),
        (("--draft-url", "http://127.0.0.1:9"), "goes with --target-url"),
        (("--local", "--models", "/no/such/folder"), "no folder"),
        (("--port", "99999"), "99999"),
        (
            ("-o", "/proc/none/twd.yaml", "--target-url", "http://127.0.0.1:9", "--target-model", "m"),
            "cannot be written",
        ),
        (("-o", "/tmp"), "is a folder"),
        (("--target-url", "gpu-box:8080"), "'gpu-box:8080' is no address of a server"),
        (("--target-url", "http://127.0.0.1:9", "--draft-url", "nope"), "'nope' is no address of a server"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "-y", *arguments]) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert not (tmp_path / "twd.yaml").exists()


def test_a_file_that_is_named_is_served_with_as_many_guesses_as_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWD_HOME", str(tmp_path / "state"))
    (tmp_path / "far").mkdir()
    file = write(tmp_path / "far" / "chosen.gguf")
    options = ["--local", "--local-port", "1", "--max-draft-tokens", "7", "--json"]
    assert run(["init", "--model-path", str(file), *options]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["target"]["path"] == str(file)
    assert "max_draft_tokens: 7" in (tmp_path / "twd.yaml").read_text()
    assert run(["init", "--model-path", "gone.gguf", "--force", *options]) == ExitCode.NOT_FOUND
    (tmp_path / "far" / "broken.gguf").write_bytes(b"GGUF")
    assert run(["init", "--model-path", "far/broken.gguf", "--force", *options]) == ExitCode.USAGE
    assert "cannot be served" in capsys.readouterr().err
