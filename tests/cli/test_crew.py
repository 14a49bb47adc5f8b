"""Processes that wait for others, and programs that are asked how they are. Real processes."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.waiting import alive, until
from twd.cli.crew import Crew
from twd.kit.board import Board, Stage
from twd.kit.clock import SystemClock
from twd.kit.ports import free_port
from twd.kit.supervisor import Child, Exit, ProcessSpec, Supervisor
from twd.kit.tasks import TaskGroup

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
        self.board = Board(began_ms=1)
        self.ready = folder / "ready"
        self.port = free_port()
        self.tasks = TaskGroup("test", self._fault)
        self._folder = folder
        self.crew = Crew(self.board, self.tasks, self._supervise, lambda: None, SystemClock().wall_ms)

    def _supervise(self, specs: Sequence[ProcessSpec]) -> Supervisor:
        return Supervisor(
            specs,
            self._folder,
            SystemClock(),
            on_start=self._started,
            on_exit=self._exited,
            on_fault=self._fault,
        )

    def _started(self, child: Child) -> None:
        self.board.started(child.spec.name, child.pid)
        self.crew.started(child)

    def _exited(self, gone: Exit) -> None:
        self.board.exited(gone.name, gone.code, gone.restarts, gone.retry_in_s, gone.problem)

    def _fault(self, name: str, error: BaseException) -> None:
        raise AssertionError(f"{name}: {error!r}")

    def specs(self) -> list[ProcessSpec]:
        """A program that tells its health, and a process that comes after it."""
        argv = (*PYTHON, HEALTHY, str(self.port), str(self.ready))
        server = ProcessSpec("server", argv, foreign=True, health_url=f"http://127.0.0.1:{self.port}/health")
        return [server, ProcessSpec("relay", SLEEP, after="server")]

    def stage(self, name: str) -> Stage:
        """How far a process is."""
        return self.board.rows[name].stage


@asynccontextmanager
async def stand(folder: Path) -> AsyncIterator[Stand]:
    made = Stand(folder)
    try:
        yield made
    finally:
        await made.crew.supervisor.stop(5)
        await made.tasks.close()


async def test_one_that_follows_starts_when_the_other_works(tmp_path: Path) -> None:
    async with stand(tmp_path) as here:
        here.crew.start(here.specs())
        await until(lambda: here.board.rows["server"].note == "it loads", "the server answers that it loads")
        assert here.board.rows["relay"].note == "waits for server"
        assert "relay" not in here.crew.supervisor.children
        here.ready.touch()
        await until(lambda: here.stage("server") is Stage.READY, "the server works")
        await until(lambda: here.board.rows["relay"].pid > 0, "the relay starts")
        assert here.board.rows["relay"].note == ""
        pids = here.crew.pids(["server", "relay", "nobody"])
        assert len(pids) == 2
        await here.crew.end(["server", "relay"])
        assert here.board.rows == {}
        assert not any(alive(pid) for pid in pids)


async def test_one_that_still_waits_can_go_too(tmp_path: Path) -> None:
    async with stand(tmp_path) as here:
        here.crew.start(here.specs())
        await here.crew.end(["relay", "server"])
        assert here.board.rows == {}
        assert here.crew.supervisor.children == {}
        here.ready.touch()
        here.crew.take(here.specs()[0])
        await until(lambda: here.stage("server") is Stage.READY, "another server works")
        assert list(here.board.rows) == list(here.crew.supervisor.children) == ["server"]


async def test_a_program_that_was_replaced_is_asked_anew(tmp_path: Path) -> None:
    async with stand(tmp_path) as here:
        here.ready.touch()
        here.crew.start(here.specs()[:1])
        await until(lambda: here.stage("server") is Stage.READY, "the server works")
        (pid,) = here.crew.pids(["server"])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: here.crew.pids(["server"]) not in ([], [pid]), "another one runs")
        await until(lambda: here.stage("server") is Stage.READY, "it works too")
