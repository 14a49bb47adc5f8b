"""The program as a user starts it: in a process of its own, with a state folder and ports of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.cli.command_server import SERVER
from tests.measurements import leave_measurements, take_measurements
from tests.waiting import alive, wait_until
from twd.engine.demo_model import demo_model
from twd.net.ports import free_port
from twd.supervisor.demo import DRAFT, TARGET

TWD = (sys.executable, "-P", "-m", "twd")
TIMEOUT_S = 180


def _one_core() -> tuple[int, ...]:
    """Threads of an engine wait for each other, so one that is kept from its core by other tests holds all of them."""
    if sys.platform != "linux":
        return ()
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return (cores[worker % len(cores)],)


def _keep_to_one_core() -> None:
    if cores := _one_core():
        os.sched_setaffinity(0, cores)


class Installed:
    """One installation: its state folder, and commands in its environment."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.env = {
            **os.environ,
            "HOME": str(home.parent),
            "TWD_HOME": str(home),
            "TWD_EDGE_PORT": str(self.port),
            "TWD_BUS_PORT": str(free_port()),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def twd(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return SERVER.run(arguments, {**self.env, **env}, self.home.parent, TIMEOUT_S, _one_core())

    def take_demo_files(self, weights: Path) -> None:
        """The demo's files from where tests keep them: to write them anew takes seconds for each installation."""
        take_measurements(self.home, weights)
        folder = self.home / "cache"
        for kind in (TARGET, DRAFT):
            made = demo_model(weights, kind)
            (folder / made.name).symlink_to(made)

    def up(self, *arguments: str) -> dict[str, Any]:
        """Start it in the background, until it is ready."""
        done = self.twd("up", "-d", "--json", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def foreground(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start it as in a terminal."""
        return subprocess.Popen(
            [*TWD, "up", *arguments],
            env=self.env,
            cwd=self.home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_keep_to_one_core,
        )

    @property
    def record(self) -> dict[str, Any]:
        """What the running supervisor wrote down."""
        answer: dict[str, Any] = json.loads((self.home / "run" / "instance.json").read_bytes())
        return answer

    def pids(self) -> dict[str, int]:
        """Every process of this installation by name."""
        record = self.record
        return {"supervisor": record["pid"], **record["processes"]}

    def status(self) -> dict[str, Any]:
        """What `twd status --json` says; empty when nothing runs."""
        done = self.twd("status", "--json")
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return answer

    def state_of(self, service: str) -> tuple[str, int]:
        """State and pid of one service, by its lease."""
        found = [entry for entry in self.status().get("services", []) if entry["service"] == service]
        return (found[0]["state"], found[0]["pid"]) if len(found) == 1 else ("", 0)

    def clean_up(self) -> None:
        """End whatever a test left running."""
        for process in psutil.process_iter(["cmdline", "environ", "pid"]):
            environment = process.info["environ"] or {}
            mine = environment.get("TWD_HOME") == str(self.home)
            mine = mine or environment.get("TWD_RESOLVED", "").startswith(str(self.home))
            if mine and alive(process.info["pid"]):
                os.kill(process.info["pid"], signal.SIGKILL)


@contextmanager
def running(
    home: Path, *arguments: str, weights: Path | None = None, measured: Path | None = None, **env: str
) -> Iterator[Installed]:
    """An installation that is up; `weights` has the demo's files ready, and it or `measured` what was measured."""
    measured = measured or weights
    installed = Installed(home)
    installed.env |= env
    if weights is not None:
        installed.take_demo_files(weights)
    elif measured is not None:
        take_measurements(home, measured)
    try:
        installed.up(*arguments)
        yield installed
        down = installed.twd("down")
        assert down.returncode == 0, down.stdout + down.stderr
        if measured is not None:
            leave_measurements(home, measured)
    finally:
        installed.clean_up()


def all_gone(pids: dict[str, int]) -> None:
    """Wait until none of these processes is left."""
    for name, pid in pids.items():
        wait_until(lambda pid=pid: not alive(pid), f"{name} (pid {pid}) is gone")  # type: ignore[misc]
