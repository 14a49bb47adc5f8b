"""kill -9 while a model is on its way: of the seeder, and of the machine that reads a hub. Little is fetched again."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.cli.running import Installed, running
from tests.models.hubs import Hub, Repository, hub_in_thread
from tests.swarm.swarms import model
from tests.waiting import until, wait_until
from twd.pieces.partial import look
from twd.pieces.tree import UNIT
from twd.swarm.pace import Pace
from twd.swarm.peer import Peer, Peers
from twd.swarm.transfer import Transfer

pytestmark = pytest.mark.slow
TWD = (sys.executable, "-m", "twd")
FILE = "m-Q4_K_M.gguf"
KILLS = 4


def seeding(path: Path, port: int) -> tuple["subprocess.Popen[str]", int]:
    """`twd swarm seed` as a process, and its port."""
    command = [*TWD, "swarm", "seed", str(path), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"at http://\S+:(\d+);", line):
            return process, int(found[1])
    raise AssertionError("the seeder did not begin")


def killed(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=20)


def _has(transfer: Transfer, units: int) -> bool:
    return transfer.file.have.count >= units


async def test_a_seeder_that_is_killed_costs_what_was_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.swarm.core.PAUSE_S", 0.05)
    path, manifest = model(tmp_path, 24)
    source, port = await asyncio.to_thread(seeding, path, 0)
    peers, target = Peers(), tmp_path / "copy.gguf"
    transfer = Transfer(manifest, target, pace=Pace(8.0))
    transfer.pull.add(Peer(peers, f"http://127.0.0.1:{port}", manifest.name, manifest.total_size))
    pulling = asyncio.ensure_future(transfer.run())  # noqa: TID251 - a test waits for it below
    try:
        for kill in range(1, KILLS + 1):
            await until(partial(_has, transfer, 4 * kill), f"before kill {kill}", 60)
            await asyncio.to_thread(killed, source)
            source, _ = await asyncio.to_thread(seeding, path, port)
        await asyncio.wait_for(pulling, 120)
    finally:
        killed(source)
        await peers.close()
    assert target.read_bytes() == path.read_bytes()
    assert transfer.counts.fetched_bytes <= manifest.total_size + KILLS * 4 * UNIT


class Machine:
    """One more swarm service of an installation, with a home of its own."""

    def __init__(self, desk: Installed, name: str, folder: Path) -> None:
        self.name, self.home = name, folder / name
        told = json.loads((desk.home / "run/instance.json").read_text())
        own = {"TWD_HOME": str(self.home), "TWD_NODE": name, "TWD_SWARM_PORT": "0", "TWD_SWARM_ACCEPT": "true"}
        self._environment = {**desk.env, **own, "TWD_BUS_URL": told["bus_url"], "TWD_BUS_TOKEN": told["bus_token"]}
        self._environment.pop("TWD_BUS_PORT")
        self.start()

    def start(self) -> None:
        """Begin, or begin again."""
        self.process = subprocess.Popen([*TWD, "run", "swarm"], env=self._environment, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(20)

    @property
    def copy(self) -> Path:
        """The model, as far as it is there."""
        return self.home / "models" / FILE

    @property
    def units(self) -> int:
        """How much of it is there."""
        found = look(self.copy)
        return found.have if found is not None else 0


def _goes_on(one: Machine, before: int) -> bool:
    return one.copy.exists() or one.units > before


@contextmanager
def machines(desk: Installed, folder: Path) -> Iterator[list[Machine]]:
    made = [Machine(desk, name, folder) for name in ("one", "two")]
    try:
        yield made
    finally:
        for one in made:
            one.kill()


def readers(desk: Installed, some: list[Machine]) -> list[Machine]:
    """Those that the hub has sent something to since it was looked at last: they alone read it."""
    told = {one["node"]: one["facts"] for one in desk.status()["services"] if one["service"] == "swarm"}
    return [one for one in some if one.name in told]


@pytest.mark.e2e
@pytest.mark.nats
@pytest.mark.thorough
def test_a_machine_that_reads_a_hub_is_killed_and_begun_again(tmp_path: Path) -> None:
    data = b"GGUF" + os.urandom(24 * UNIT)
    hub = Hub({"org/model": Repository({FILE: data})}, bytes_s=0.4e6)
    with (
        hub_in_thread(hub) as url,
        running(tmp_path / "home", "--no-models", HF_ENDPOINT=url, HF_HOME=str(tmp_path), TWD_SWARM_PORT="0") as desk,
        machines(desk, tmp_path) as both,
    ):
        wait_until(lambda: len(readers(desk, both)) == 2, "both are there", timeout_s=60)
        asked = [subprocess.Popen([*TWD, "pull", "org/model:Q4_K_M", "--node", one.name], env=desk.env) for one in both]
        wait_until(lambda: all(one.units >= 2 for one in both), "both have begun", timeout_s=90)
        for one in both:  # one of them reads
            before = one.units
            one.kill()
            one.start()
            wait_until(partial(_goes_on, one, before), "it goes on", timeout_s=90)
        wait_until(lambda: all(one.copy.exists() for one in both), "both have it", timeout_s=120)
        for command in asked:
            command.kill()
            command.wait(20)
        assert all(one.copy.read_bytes() == data for one in both)
    assert hub.sent_bytes <= len(data) + 2 * 10 * UNIT
