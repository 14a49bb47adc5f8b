"""Processes that wait for others, and programs that are asked how they are. Real processes."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.waiting import alive, until
from twd.kit.clock import SystemClock
from twd.kit.tasks import TaskGroup
from twd.net.ports import free_port
from twd.process.process_table import ProcessTable, StartPhase
from twd.process.supervisor import ChildProcess, ProcessExit, ProcessSpec, Supervisor
from twd.supervisor.process_group import ProcessGroup

PYTHON = (sys.executable, "-S", "-c")
SLEEP = (*PYTHON, "import time; time.sleep(600)")
HEALTHY = """
import http.server, pathlib, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path(sys.argv[2]).exists() else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


class Stand:
    """A crew on its board."""

    def __init__(self, folder: Path) -> None:
        self.table = ProcessTable(began_ms=1)
        self.ready = folder / "ready"
        self.port = free_port()
        self.tasks = TaskGroup("test", self._fault)
        self._folder = folder
        self.process_group = ProcessGroup(self.table, self.tasks, self._supervise, lambda: None, SystemClock().wall_ms)

    def _supervise(self, specs: Sequence[ProcessSpec]) -> Supervisor:
        return Supervisor(
            specs,
            self._folder,
            SystemClock(),
            on_start=self._started,
            on_exit=self._exited,
            on_fault=self._fault,
        )

    def _started(self, child: ChildProcess) -> None:
        self.table.started(child.spec.name, child.pid)
        self.process_group.started(child)

    def _exited(self, gone: ProcessExit) -> None:
        self.table.exited(gone.name, gone.code, gone.restarts, gone.retry_in_s, gone.problem)

    def _fault(self, name: str, error: BaseException) -> None:
        raise AssertionError(f"{name}: {error!r}")

    def specs(self) -> list[ProcessSpec]:
        """A program that tells its health, and a process that comes after it."""
        argv = (*PYTHON, HEALTHY, str(self.port), str(self.ready))
        server = ProcessSpec("server", argv, foreign=True, health_url=f"http://127.0.0.1:{self.port}/health")
        return [server, ProcessSpec("relay", SLEEP, after="server")]

    def stage(self, name: str) -> StartPhase:
        """How far a process is."""
        return self.table.rows[name].stage


@asynccontextmanager
async def stand(folder: Path) -> AsyncIterator[Stand]:
    made = Stand(folder)
    try:
        yield made
    finally:
        await made.process_group.supervisor.stop(5)
        await made.tasks.close()


async def test_one_that_follows_starts_when_the_other_works(tmp_path: Path) -> None:
    async with stand(tmp_path) as here:
        here.process_group.start(here.specs())
        await until(lambda: here.table.rows["server"].note == "it loads", "the server answers that it loads")
        assert here.table.rows["relay"].note == "waits for server"
        assert "relay" not in here.process_group.supervisor.children
        here.ready.touch()
        await until(lambda: here.stage("server") is StartPhase.READY, "the server works")
        await until(lambda: here.table.rows["relay"].pid > 0, "the relay starts")
        assert here.table.rows["relay"].note == ""
        pids = here.process_group.pids(["server", "relay", "nobody"])
        assert len(pids) == 2
        await here.process_group.end(["server", "relay"])
        assert here.table.rows == {}
        assert not any(alive(pid) for pid in pids)


async def test_one_that_still_waits_can_go_too(tmp_path: Path) -> None:
    async with stand(tmp_path) as here:
        here.process_group.start(here.specs())
        await here.process_group.end(["relay", "server"])
        assert here.table.rows == {}
        assert here.process_group.supervisor.children == {}
        here.ready.touch()
        here.process_group.take(here.specs()[0])
        await until(lambda: here.stage("server") is StartPhase.READY, "another server works")
        assert list(here.table.rows) == list(here.process_group.supervisor.children) == ["server"]


async def test_a_program_that_was_replaced_is_asked_anew(tmp_path: Path) -> None:
    async with stand(tmp_path) as here:
        here.ready.touch()
        here.process_group.start(here.specs()[:1])
        await until(lambda: here.stage("server") is StartPhase.READY, "the server works")
        (pid,) = here.process_group.pids(["server"])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: here.process_group.pids(["server"]) not in ([], [pid]), "another one runs")
        await until(lambda: here.stage("server") is StartPhase.READY, "it works too")
