"""Child processes that are kept alive: started together, restarted with backoff, ended in order."""

import asyncio
import enum
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from twd.kit.clock import Clock
from twd.kit.exit_codes import REFUSED, ExitCode
from twd.kit.tasks import TaskGroup, every
from twd.process import platform
from twd.process.fork_server import ForkedChild, ForkServer
from twd.process.log_files import LogFile

ROTATE_S: Final = 10.0
KILLED_S: Final = 5.0
NO_PROGRAM: Final = 127
SETTLED_S: Final = 2.0
"""A process that ends on purpose after so long, to begin anew, is not failing."""
T = TypeVar("T")


@dataclass(frozen=True)
class ProcessSpec:
    """One process to keep alive. `name` is unique under one supervisor and names the log."""

    name: str
    argv: tuple[str, ...]
    foreign: bool = False
    """Not our own program: it must be tied to this process to end with it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    """What to do before each start."""
    node: str = ""
    """The machine that it plays, where that is not this one."""
    serves: str = ""
    """The model for whose sake it runs: it comes and goes with that."""
    health_url: str = ""
    """Where a program that holds no lease says whether it works."""
    after: str = ""
    """The process that must work before this one starts."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next start: little while somebody may be waiting for it, more once it looks hopeless.

    A process that was killed a dozen times in a minute must still be back within seconds. One that did its work for
    `healthy_s` is started again at once. One that says itself that it cannot start has not, however long it tried.
    """

    first_s: float = 0.1
    short_s: float = 1.0
    longest_s: float = 10.0
    patience: int = 30
    healthy_s: float = 30.0

    def delay(self, failures: int, *, refused: bool = False) -> float:
        """The pause after so many ends in a row; `refused`: it said itself that it cannot start."""
        longest = self.short_s if failures <= self.patience and not refused else self.longest_s
        return min(longest, self.first_s * 2.0 ** min(failures - 1, 30))


class ProcessState(enum.StrEnum):
    """Where a process stands."""

    NEW = "new"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"


@dataclass
class ChildProcess:
    """What the supervisor knows of one process."""

    spec: ProcessSpec
    log: LogFile
    state: ProcessState = ProcessState.NEW
    pid: int = 0
    restarts: int = 0
    failures: int = 0
    started_at: float = 0.0
    unwanted: bool = False
    """It was told to end for good, while others go on."""
    obstacle: str = ""
    """Why it could not be started the last time."""

    @property
    def last_words(self) -> str:
        """What it said last; nobody else could write it down on a full disk."""
        return self.log.last_words() or self.obstacle


@dataclass(frozen=True)
class ProcessExit:
    """A process ended; `retry_in_s` is negative when it stays so."""

    name: str
    pid: int
    code: int
    ran_s: float
    restarts: int
    retry_in_s: float
    last_words: str
    problem: str
    """The one line of them that matters most."""


class Supervisor:
    """Keeps a set of processes alive until told to stop."""

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        logs: Path,
        clock: Clock,
        *,
        on_start: Callable[[ChildProcess], None],
        on_exit: Callable[[ProcessExit], None],
        on_fault: Callable[[str, BaseException], None],
        environment: Mapping[str, str] = os.environ,
        backoff: Backoff = Backoff(),
        fork_server: ForkServer | None = None,
    ) -> None:
        """`fork_server`: where processes of this program are born; without, they start in the usual way."""
        self._logs = logs
        self.children = {spec.name: ChildProcess(spec, LogFile(logs, spec.name)) for spec in specs}
        self._clock = clock
        self._on_start = on_start
        self._on_exit = on_exit
        self._on_fault = on_fault
        self._backoff = backoff
        self._fork_server = fork_server
        self._lifeline = platform.Lifeline()
        self._environment = {**environment, **self._lifeline.environment}
        self._tasks = TaskGroup("supervisor", on_fault)
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stop_asked = asyncio.Event()

    def start(self) -> None:
        """Start everything at once."""
        for name in self.children:
            self.start_one(name)
        self._tasks.keep("rotate", partial(every, ROTATE_S, self._rotate))

    def start_one(self, name: str) -> None:
        """Start one process and keep it."""
        self._keepers[name] = self._tasks.start(name, self._keep(self.children[name]))

    def add(self, spec: ProcessSpec) -> None:
        """Take one more process into care, and start it."""
        self.children[spec.name] = ChildProcess(spec, LogFile(self._logs, spec.name))
        self.start_one(spec.name)

    async def remove(self, name: str, timeout_s: float = 30.0) -> bool:
        """End one process for good, while the others go on; False when it had to be killed."""
        child, keeper = self.children.get(name), self._keepers.get(name)
        if child is None or keeper is None:
            return True
        child.unwanted = True
        self._ask(child)
        _, late = await asyncio.wait({keeper}, timeout=timeout_s)
        if late:
            _kill(child)
            await asyncio.wait({keeper}, timeout=KILLED_S)
        if self.children.get(name) is child:
            del self.children[name], self._keepers[name]
        return not late

    async def stop(self, timeout_s: float = 30.0) -> list[str]:
        """Ask everything to drain, and wait; returns the names of those that had to be killed."""
        self._stop_asked.set()
        for child in self.children.values():
            self._ask(child)
        late = await self._wait(timeout_s)
        self.kill()
        await self._wait(KILLED_S)
        await self._tasks.close()
        self._lifeline.close()
        return late

    def kill(self) -> None:
        """End everything at once; a stop that waits for it returns soon after."""
        self._stop_asked.set()
        for child in self.children.values():
            _kill(child)

    # -- one process -----------------------------------------------------------------------------

    async def _keep(self, child: ChildProcess) -> None:
        while not self._ends(child):
            code = await self._run_once(child)
            if self._ends(child):
                break
            await asyncio.sleep(self._note_exit(child, code))
            child.restarts += 1
        child.state = ProcessState.ENDED

    def _ends(self, child: ChildProcess) -> bool:
        return child.unwanted or self._stop_asked.is_set()

    async def _run_once(self, child: ChildProcess) -> int:
        child.log.begin_run()
        child.started_at, child.obstacle = self._clock.now(), ""
        try:
            process = await self._spawn(child)
        except OSError as error:
            return self._cannot_start(child, error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - told; one that cannot be started does not end the others
            self._on_fault(child.spec.name, error)
            return self._cannot_start(child, repr(error))
        if self._ends(child):
            platform.ask_to_stop(child.pid)
        code = await process.wait()
        platform.kill_group(child.pid)  # whatever it left behind
        return code

    def _cannot_start(self, child: ChildProcess, why: str) -> int:
        child.obstacle = f"{child.spec.argv[0]} cannot be started: {why}"
        child.log.add(child.obstacle)
        return NO_PROGRAM

    async def _spawn(self, child: ChildProcess) -> asyncio.subprocess.Process | ForkedChild:
        spec = child.spec
        if spec.prepare is not None:
            spec.prepare()
        environment = {**self._environment, **spec.environment}
        with child.log.path.open("ab") as log:
            process = await self._born(child, environment) or await self._create(child, environment, log)
        child.pid = process.pid
        child.state = ProcessState.RUNNING
        self._tell(self._on_start, child)
        return process

    async def _born(self, child: ChildProcess, environment: Mapping[str, str]) -> ForkedChild | None:
        if self._fork_server is None or child.spec.foreign:
            return None
        return await self._fork_server.birth(child.spec.argv, environment, child.log.path)

    async def _create(
        self, child: ChildProcess, environment: Mapping[str, str], log: BinaryIO
    ) -> asyncio.subprocess.Process:
        argv = platform.tied_to_parent(child.spec.argv) if child.spec.foreign else child.spec.argv
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=self._lifeline.inherited,
            **platform.spawn_options(),
        )

    def _note_exit(self, child: ChildProcess, code: int) -> float:
        ran_s = self._clock.now() - child.started_at
        expected = code == ExitCode.WORKER_LOST and ran_s >= SETTLED_S
        refused = code in REFUSED and not child.spec.foreign
        was_well = expected or (ran_s >= self._backoff.healthy_s and not refused)
        child.failures = 1 if was_well else child.failures + 1
        child.state = ProcessState.WAITING
        delay = 0.0 if was_well else self._backoff.delay(child.failures, refused=refused)
        problem = child.obstacle or child.log.last_problem()
        gone = ProcessExit(child.spec.name, child.pid, code, ran_s, child.restarts, delay, child.last_words, problem)
        self._tell(self._on_exit, gone)
        return delay

    def _tell(self, listener: Callable[[T], None], news: T) -> None:
        """Whoever listens may fail: the process is cared for all the same."""
        try:
            listener(news)
        except Exception as error:  # noqa: BLE001 - told where faults go
            self._on_fault("news", error)

    # -- the end ---------------------------------------------------------------------------------

    def _ask(self, child: ChildProcess) -> None:
        if child.state is ProcessState.RUNNING:
            platform.ask_to_stop(child.pid)
        elif child.state is ProcessState.WAITING:
            self._keepers[child.spec.name].cancel()
            child.state = ProcessState.ENDED

    async def _wait(self, timeout_s: float) -> list[str]:
        """Wait for all processes to end; returns the names of those that did not."""
        if self._keepers:
            await asyncio.wait(self._keepers.values(), timeout=timeout_s)
        return [name for name, keeper in self._keepers.items() if not keeper.done()]

    async def _rotate(self) -> None:
        for child in list(self.children.values()):
            child.log.rotate_if_big()


def _kill(child: ChildProcess) -> None:
    if child.state is ProcessState.RUNNING:  # before that its pid is 0, which stands for our own group
        platform.kill_group(child.pid)
