"""A ring of three machines of which two have no copy of the model: they fetch their layers; the text is the same."""

import re
import urllib.request
from pathlib import Path

import pytest

from tests.cli.running import Installed, running
from tests.e2e.conftest import client_of
from tests.e2e.streaming import stream
from tests.waiting import wait_until
from twd.gguf_tools.slice import ModelSource, plan_slice
from twd.gguf_tools.slice_cache import named_slice
from twd.pieces.tree import UNIT
from twd.supervisor.demo import TARGET

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.nats, pytest.mark.slow, pytest.mark.thorough]
BARE = ("node-2", "node-3")


def decided(installed: Installed) -> list[str]:
    """The machines that the model's stages are on now."""
    pools = [one["facts"].get("pool", []) for one in installed.status()["services"] if one["service"] == "speculator"]
    return [re.split("[/ ]", str(part))[0] for part in pools[0]]


def fetched(installed: Installed) -> dict[str, int]:
    """The bytes that each machine took from others."""
    with urllib.request.urlopen(f"http://127.0.0.1:{installed.port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = re.findall(r'^twd_swarm_pulled_bytes_total\{node="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {node: int(float(count)) for node, count in found}


def most(model: Path, home: Path) -> int:
    """The most bytes that a machine may fetch for its slice."""
    (made,) = (home / "cache" / "slices").glob("*.gguf")
    facts = named_slice(made.name)
    assert facts is not None
    layout = plan_slice(model, facts[0], facts[1], head=facts[2])
    header = ModelSource.whole(model).headers()[0].data_offset
    return int(1.02 * sum(end - begin for begin, end in layout.ranges(model)) + header + 2 * UNIT)


def test_machines_without_the_model_fetch_their_layers(model_cache: Path, tmp_path: Path) -> None:
    with running(tmp_path / "alone", "--demo", weights=model_cache) as whole, client_of(whole) as client:
        alone = "".join(stream(client))
    ring = ("--demo", "--ring", "3", "--bare", "2")
    with running(tmp_path / "home", *ring, weights=model_cache) as pool, client_of(pool) as client:
        assert "".join(stream(client)) == alone, "it serves before the layers have come"
        wait_until(lambda: set(BARE) <= set(decided(pool)), "the model moved to the others", timeout_s=90)
        assert "".join(stream(client)) == alone
        taken = fetched(pool)
        for node in BARE:
            home = pool.home / "nodes" / node
            assert 0 < taken[node] <= most(next((pool.home / "cache").glob(f"*{TARGET.upper()}.gguf")), home)
        shown = pool.twd("slice").stdout
        assert shown.count("parts of 1 model") == len(BARE)
        done = pool.twd("distribute", "smollm2-135m")
        assert done.returncode == 0, done.stdout + done.stderr
        for node in BARE:
            assert f"{node}: swarm, " in done.stdout
            (copy,) = (pool.home / "nodes" / node / "models").glob("*.gguf")
            assert copy.stat().st_size == next((pool.home / "cache").glob(f"*{TARGET.upper()}.gguf")).stat().st_size
