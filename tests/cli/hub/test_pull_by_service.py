"""`twd pull` where an installation runs: its swarm service does it, here or on a machine that is named."""

import json
from pathlib import Path

import pytest

from tests.cli.running import running
from tests.models.hubs import Hub, Repository, hub_in_thread
from twd.kit.exit_codes import ExitCode
from twd.pieces.tree import UNIT

pytestmark = [pytest.mark.e2e, pytest.mark.nats]
DATA = b"GGUF" + bytes(range(256)) * (2 * UNIT // 256)


def test_the_service_fetches_and_shares(tmp_path: Path) -> None:
    hub = Hub({"org/model": Repository({"m-Q4_K_M.gguf": DATA})})
    with (
        hub_in_thread(hub) as url,
        running(tmp_path / "home", "--no-models", HF_ENDPOINT=url, HF_HOME=str(tmp_path), TWD_SWARM_PORT="0") as twd,
    ):
        done = twd.twd("pull", "org/model:Q4_K_M", "--json")
        assert done.returncode == ExitCode.OK, done.stderr
        last = json.loads(done.stdout.splitlines()[-1])
        path = twd.home / "models/m-Q4_K_M.gguf"
        assert (last["state"], last["path"]) == ("finished", str(path))
        assert path.read_bytes() == DATA
        shared = json.loads(twd.twd("swarm", "status", "--json").stdout)
        assert "shared whole" in [one["state"] for one in shared if one["file"] == path.name]
        sent = hub.sent_bytes

        beside = twd.twd("pull", "org/model:Q4_K_M", "--dir", str(tmp_path))
        assert beside.returncode == ExitCode.OK, beside.stderr
        assert (tmp_path / "m-Q4_K_M.gguf").read_bytes() == DATA
        assert hub.sent_bytes == sent

        node = json.loads((twd.home / "run/instance.json").read_text())["node"]
        again = twd.twd("pull", "org/model:Q4_K_M", "--node", node)
        assert (again.returncode, "here already" in again.stderr) == (ExitCode.OK, True)
        nobody = twd.twd("pull", "org/model:Q4_K_M", "--node", "nobody")
        assert nobody.returncode == ExitCode.NOTHING_RUNS
        assert "no swarm service answers on nobody" in nobody.stderr
        wrong = twd.twd("pull", "org/model:Q5_0")
        assert wrong.returncode == ExitCode.NOT_FOUND
        assert "there is: org/model/m-Q4_K_M.gguf" in wrong.stderr

        offline = twd.twd("pull", "org/model:Q4_K_M", HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE" in offline.stderr, "the service does not know of it, so the command does it itself"
