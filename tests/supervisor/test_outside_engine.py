"""llama-server as the engine: its command line, and a whole installation over a program that behaves like it."""

import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI

from tests.cli.running import Installed
from tests.gguf_tools.test_inspect import write
from tests.waiting import wait_until
from twd.kit.errors import CommandError
from twd.net.ports import free_port
from twd.settings.model import (
    AgentConfig,
    BinariesConfig,
    EdgeConfig,
    EngineConfig,
    GpuConfig,
    LlamaServerConfig,
    ModelConfig,
    PoolConfig,
    Settings,
    WorkerConfig,
)
from twd.supervisor.outside_engine import command_line, key_of, tensor_split, url_of, with_backend
from twd.supervisor.processes import wanted_processes

REPOSITORY = Path(__file__).parents[2]
GPUS = (GpuConfig(vram_gb=24), GpuConfig(vram_gb=8))


ALONE = PoolConfig(engine="llama-server")


def settings(pool: PoolConfig = ALONE, **model: object) -> Settings:
    models = {"big": ModelConfig(path="/m/big.gguf", **model), "small": ModelConfig(path="/m/small.gguf")}  # type: ignore[arg-type]
    return Settings(models=models, pool=pool)


def options(line: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(line[1::2], line[2::2], strict=False))


def test_the_command_line_says_what_the_settings_say() -> None:
    workers = (WorkerConfig(host="10.0.0.2", gpus=GPUS), WorkerConfig(host="10.0.0.3", rpc_port=50060))
    pool = PoolConfig(engine="llama-server", workers=workers)
    told = options(command_line(settings(pool, ctx_size=4096, parallel=2, flash_attn="on", cache_type_k="q8_0"), "big"))
    assert told["--rpc"] == "10.0.0.2:50052,10.0.0.3:50060"
    assert (told["--ctx-size"], told["--parallel"]) == ("8192", "2")
    assert (told["--flash-attn"], told["--cache-type-k"]) == ("on", "q8_0")
    assert (told["--host"], told["--port"], told["--alias"]) == ("127.0.0.1", "8090", "big")
    assert "--cache-type-v" not in told
    assert "--tensor-split" not in told  # nobody knows the third machine's memory


def test_extra_arguments_come_last_and_win() -> None:
    own = Settings(
        models={"m": ModelConfig(path="/m/m.gguf", mmap="off", threads=3)},
        pool=PoolConfig(engine="llama-server"),
        engine=EngineConfig(extra_args=("--parallel", "9")),
        agent=AgentConfig(binaries=BinariesConfig(llama_server="~/bin/llama-server")),
    )
    line = command_line(own, "m")
    assert line[0] == os.path.expanduser("~/bin/llama-server")
    assert line[-2:] == ("--parallel", "9")
    assert "--no-mmap" in line
    assert line[line.index("--threads") + 1] == "3"


def test_each_model_has_a_port_of_its_own() -> None:
    both = settings()
    assert (url_of(both, "big"), url_of(both, "small")) == ("http://127.0.0.1:8090", "http://127.0.0.1:8091")


def test_shares_are_given_in_the_order_of_llama_cpp() -> None:
    workers = (WorkerConfig(host="10.0.0.2", gpus=GPUS),)
    known = PoolConfig(engine="llama-server", workers=workers, gpus=(GpuConfig(vram_gb=32),))
    assert tensor_split(settings(known)) == (0.38, 0.12, 0.5)
    said = PoolConfig(engine="llama-server", workers=workers, split=(1.0, 2.0, 3.0))
    assert tensor_split(settings(said)) == (2.0, 3.0, 1.0)  # ours come first in the settings
    few = PoolConfig(engine="llama-server", workers=workers, split=(1.0,))
    with pytest.raises(CommandError, match="1 shares for 2 devices"):
        tensor_split(settings(few))


def test_off_loopback_it_needs_a_key() -> None:
    open_to_all = PoolConfig(engine="llama-server", llama_server=LlamaServerConfig(host="0.0.0.0"))
    with pytest.raises(CommandError, match=r"edge\.token"):
        key_of(settings(open_to_all))
    guarded = Settings(
        models={"m": ModelConfig(path="/m.gguf")},
        pool=open_to_all,
        edge=EdgeConfig(token="a-token-long-enough-for-this"),
    )
    server = next(spec for spec in wanted_processes(guarded) if spec.name == "llama-server.m")
    assert server.environment["LLAMA_API_KEY"] == guarded.edge.token
    assert guarded.edge.token not in server.argv
    assert with_backend(guarded, "m").backends["m"].api_key == guarded.edge.token
    assert url_of(guarded, "m") == "http://127.0.0.1:8090"


def test_the_relay_comes_after_the_server() -> None:
    specs = {spec.name: spec for spec in wanted_processes(settings())}
    assert specs["relay.big"].after == "llama-server.big"
    assert specs["llama-server.big"].foreign
    assert specs["llama-server.big"].health_url == "http://127.0.0.1:8090/health"
    assert not any(name.startswith("speculator") for name in specs)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec env PYTHONPATH={REPOSITORY} {sys.executable} -m {FAKE} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


FAKE = "tests.cli.fake_llama_server"


@pytest.mark.nats
@pytest.mark.slow
def test_an_installation_over_llama_server(installations: Callable[[], Installed], fake: Path, tmp_path: Path) -> None:
    here = installations()
    first, missing = write(tmp_path / "first.gguf"), write(tmp_path / "missing.gguf")
    (here.home.parent / "twd.yaml").write_text(
        f"agent: {{port: 0, binaries: {{llama_server: '{fake}'}}}}\n"
        f"pool: {{engine: llama-server, llama_server: {{port: {free_port()}}}}}\n"
        f"models: {{first: {{path: '{first}'}}}}\n"
    )
    here.up()
    with OpenAI(base_url=f"http://127.0.0.1:{here.port}/v1", api_key="none", timeout=30, max_retries=0) as client:

        def answer() -> str:
            said = client.completions.create(model="default", prompt="one two", max_tokens=4, temperature=0)
            return said.choices[0].text

        text = answer()
        assert text
        assert here.status()["missing"] == []
        server = here.record["processes"]["llama-server.first"]
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: here.record["processes"].get("llama-server.first", 0) not in (0, server), "it is back")
        wait_until(lambda: _answers(answer), "it answers again", timeout_s=30)
        done = here.twd("swap", str(missing))
        assert done.returncode == 7, done.stdout + done.stderr
        assert "first serves as before" in done.stderr
        assert answer() == text
    assert here.twd("down").returncode == 0


def _answers(ask: Callable[[], str]) -> bool:
    from openai import APIError

    try:
        return bool(ask())
    except APIError:
        return False
