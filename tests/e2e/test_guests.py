"""An RPC worker that no agent started: the text is the same with it, without it, and when it dies meanwhile."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from urllib.request import urlopen

import pytest

from tests.cli.running import Installed
from tests.e2e.conftest import client_of
from tests.e2e.streaming import stream, struck
from tests.waiting import wait_until
from twd.engine.demo_model import demo_model
from twd.net.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow, pytest.mark.thorough]
GUEST = "127-0-0-1/RPC0"


@contextmanager
def guest(port: int) -> Iterator[int]:
    argv = (sys.executable, "-P", "-m", "twd.engine.rpc.worker", "--port", str(port), "--threads", "1")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def house(model_cache: Path, tmp_path: Path, port: int) -> Iterator[Installed]:
    installed = Installed(tmp_path / "home")
    (tmp_path / "twd.yaml").write_text(
        "mode: combined\nagent: {port: 0}\nspeculation: {enabled: false}\n"
        f"pool: {{engine: rpc, layers_at_home: false, workers: [{{host: 127.0.0.1, rpc_port: {port}}}]}}\n"
        f"models: {{small: {{path: '{demo_model(model_cache, 'q4_0')}', ctx_size: 256, parallel: 1, exact: false}}}}\n"
    )
    try:
        installed.up()
        yield installed
        installed.twd("down")
    finally:
        installed.clean_up()


def lies_on_the_guest(house: Installed) -> bool | None:
    """Where the model that was loaded last lies, by its log; None while it is not ready."""
    (log,) = (house.home / "logs").glob("speculator.small.log")
    loaded = [line for line in log.read_text().splitlines() if "is loaded after" in line]
    return GUEST in loaded[-1] if loaded and is_ready(house) else None


def is_ready(house: Installed) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{house.port}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_guest_serves_and_when_it_is_killed_the_text_goes_on(house: Installed, port: int) -> None:
    with client_of(house) as client:
        alone = "".join(stream(client))
        with guest(port) as pid:
            wait_until(lambda: lies_on_the_guest(house), "the model goes to the guest", timeout_s=120)
            assert "".join(stream(client)) == alone
            assert "127-0-0-1" in house.twd("plan").stdout
            assert struck(client, pid, SIGKILL) == alone
        wait_until(lambda: lies_on_the_guest(house) is False, "it serves at home", timeout_s=120)
        wait_until(lambda: "127-0-0-1 is left out: " in house.twd("plan").stdout, "the plan says why", timeout_s=30)
