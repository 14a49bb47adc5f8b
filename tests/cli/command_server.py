"""Commands of twd, each in a process of its own that is forked from one that has imported them.

A start is mostly imports, half a second of them, and the tests start hundreds of commands.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import NoReturn

ROOT = Path(__file__).parents[2]
LATER = ("twd.bus.nats.bus", "twd.kit.connect", "rich.live", "rich.progress", "rich.table", "yaml", "psutil")
"""What commands import when they run."""
AT_HOME = "twd.cli.engine"
"""It looks at HOME when it is imported."""


@dataclass
class CommandRequest:
    """One command line, where it runs, and where its output goes."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    out: str
    err: str
    timeout_s: int
    cores: Sequence[int] = ()


class CommandServer:
    """The process that forks; started with the first command."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._turn = Lock()

    def run(
        self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, timeout_s: int, cores: Sequence[int] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            code = self._ask(CommandRequest(arguments, env, str(cwd), str(out), str(err), timeout_s, cores))
            return subprocess.CompletedProcess(list(arguments), code, out.read_text("utf-8"), err.read_text("utf-8"))

    def _ask(self, request: CommandRequest) -> int:
        with self._turn:
            if self.process is None:
                argv = [sys.executable, "-c", "from tests.cli.command_server import serve; serve()"]
                self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
            return int(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.communicate(timeout=30)
            self.process = None


SERVER = CommandServer()


def serve() -> None:
    """Fork a process for each request; in that process this returns when its command is done."""
    sys.path.remove("")
    _import_all()
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    while orders.peek(1):
        request = pickle.load(orders)
        if not (pid := os.fork()):
            orders.close()
            answers.close()
            _become(request)
        _, status = os.waitpid(pid, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))
        answers.flush()


def _import_all() -> None:
    from twd.cli.app import COMMANDS

    for name in (*(place.partition(":")[0] for place, _ in COMMANDS.values()), *LATER):
        if not name.startswith(AT_HOME):
            import_module(name)
    gc.freeze()


def _become(request: CommandRequest) -> NoReturn:
    """Be the process of this command; one that takes too long is ended by its alarm."""
    from twd.cli.app import run

    signal.alarm(request.timeout_s)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    if request.cores:
        os.sched_setaffinity(0, request.cores)
    for number, path in enumerate((os.devnull, request.out, request.err)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["twd", *request.arguments]
    sys.exit(run(list(request.arguments)))
