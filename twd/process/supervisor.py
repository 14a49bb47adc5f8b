"""Keeps child processes alive: starts them together, restarts them with backoff, and stops them."""

import asyncio
import enum
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from twd.kit.clock import Clock
from twd.kit.exit_codes import REFUSED, ExitCode
from twd.kit.tasks import TaskGroup, every
from twd.process import platform
from twd.process.fork_server import OURS, ForkedChild, ForkServer
from twd.process.hang import USUAL, HangPolicy, RunState, Silence
from twd.process.heartbeat import VARIABLE, Beats
from twd.process.log_files import LogFile
from twd.process.process_table import Need

ROTATE_S: Final = 10.0
KILLED_S: Final = 5.0
NO_PROGRAM: Final = 127
ASK_S: Final = 1.0
"""Seconds between two health requests to a program without a heartbeat."""
SERVICE: Final = (*OURS, "run")
"""Command lines that begin like this are of processes with a heartbeat."""
SETTLED_S: Final = 2.0
"""A process that ran this long and then exits with WORKER_LOST wants a restart; that is no failure."""
T = TypeVar("T")


@dataclass(frozen=True)
class ProcessSpec:
    """One process to keep alive. `name` is unique in one supervisor; the log file has this name."""

    name: str
    argv: tuple[str, ...]
    foreign: bool = False
    """Not a twd program: it needs a wrapper so that it ends with this process."""
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    """Called before each start."""
    node: str = ""
    """The name of the machine that it stands for, if that is not this one."""
    serves: str = ""
    """The model for which it runs; it is started and stopped with that model."""
    health_url: str = ""
    """The URL that tells whether a program without a lease works."""
    after: str = ""
    """The name of the process that must work before this one starts."""
    need: Need = Need.ALWAYS
    """Whether the start of an installation waits for this process."""
    answers: Callable[[], Awaitable[bool]] | None = None
    """Asks a program without a heartbeat whether it still answers."""

    @property
    def beats(self) -> bool:
        """Whether this process has a heartbeat."""
        return not self.foreign and self.argv[: len(SERVICE)] == SERVICE


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next start: short pauses first, longer ones after many failures in a row.

    A process that was killed a dozen times in a minute must be back within seconds. One that ran for `healthy_s`
    seconds is started again at once, unless its exit code says that it cannot start.
    """

    first_s: float = 0.1
    short_s: float = 1.0
    longest_s: float = 10.0
    patience: int = 30
    healthy_s: float = 30.0

    def delay(self, failures: int, *, refused: bool = False) -> float:
        """Return the pause in seconds after so many failures in a row;

        `refused`: the exit code says that it cannot start.
        """
        longest = self.short_s if failures <= self.patience and not refused else self.longest_s
        return min(longest, self.first_s * 2.0 ** min(failures - 1, 30))


class ProcessState(enum.StrEnum):
    """The state of a process."""

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
    """True if this process alone was told to end for good."""
    obstacle: str = ""
    """Why the last start failed."""
    beats: Beats | None = None
    answers: int = 0
    """How many health requests it answered since its start."""
    silence: Silence | None = None
    hung: str = ""
    """Why it was killed as hung; empty if it ended by itself."""
    hangs: int = 0
    """How often in a row it was killed as hung."""

    @property
    def signs(self) -> int | None:
        """A number that grows while the process lives; None if it gives no sign of life."""
        if self.beats is not None:
            return self.beats.read()
        return self.answers or None

    def begins(self, policy: HangPolicy, now: float) -> None:
        """Reset the state for a new start of the process."""
        self.log.begin_run()
        self.started_at, self.obstacle, self.hung, self.answers = now, "", "", 0
        self.close()
        self.silence = Silence(policy)
        if self.spec.beats and policy.watches:
            self.beats = Beats()

    def close(self) -> None:
        """Close the heartbeat of a process that ended."""
        if self.beats is not None:
            self.beats.close()
        self.beats = None

    @property
    def last_words(self) -> str:
        """The last lines of its log, or why it could not be started if a full disk took no log."""
        return self.log.last_words() or self.obstacle


@dataclass(frozen=True)
class ProcessExit:
    """The end of a process. `retry_in_s`: seconds until the next start; negative: none."""

    name: str
    pid: int
    code: int
    ran_s: float
    restarts: int
    retry_in_s: float
    last_words: str
    problem: str
    """The line of `last_words` that matters most."""
    hung: str = ""
    """Why it was killed as hung; empty if it was not."""


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
        hang: HangPolicy = USUAL,
    ) -> None:
        """`fork_server` forks processes of twd; without it they are started as new processes.

        `hang`: when a process counts as hung; then it is killed and started again.
        """
        self._logs = logs
        self.children = {spec.name: ChildProcess(spec, LogFile(logs, spec.name)) for spec in specs}
        self._clock = clock
        self._on_start = on_start
        self._on_exit = on_exit
        self._on_fault = on_fault
        self._backoff = backoff
        self._fork_server = fork_server
        self._hang = hang
        self._heartbeats_work = False
        """Whether a heartbeat was ever seen. Where the system lets no child open its counter, none is waited for."""
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
        if self._hang.watches:
            self._tasks.keep("look for hung ones", partial(every, self._hang.look_s, self._look))

    def start_one(self, name: str) -> None:
        """Start one process and keep it."""
        self._keepers[name] = self._tasks.start(name, self._keep(self.children[name]))

    def add(self, spec: ProcessSpec) -> None:
        """Add one process and start it."""
        self.children[spec.name] = ChildProcess(spec, LogFile(self._logs, spec.name))
        self.start_one(spec.name)

    async def remove(self, name: str, timeout_s: float = 30.0) -> bool:
        """Stop one process for good; returns False when it had to be killed."""
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
        """Ask all processes to drain, and wait; returns the names of those that had to be killed."""
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
        """Kill all processes at once; a `stop` that waits returns soon after."""
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
        try:
            child.begins(self._hang, self._clock.now())
            process = await self._spawn(child)
        except OSError as error:
            return self._cannot_start(child, error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - passed to on_fault; the others go on
            self._on_fault(child.spec.name, error)
            return self._cannot_start(child, repr(error))
        if self._ends(child):
            platform.ask_to_stop(child.pid)
        code = await process.wait()
        platform.kill_group(child.pid)  # end its own children, too
        child.close()
        return code

    def _cannot_start(self, child: ChildProcess, why: str) -> int:
        child.obstacle = f"{child.spec.argv[0]} cannot be started: {why}"
        child.log.add(child.obstacle)
        return NO_PROGRAM

    async def _spawn(self, child: ChildProcess) -> asyncio.subprocess.Process | ForkedChild:
        spec = child.spec
        if spec.prepare is not None:
            spec.prepare()
        beats = {VARIABLE: child.beats.path} if child.beats is not None else {}
        environment = {**self._environment, **spec.environment, **beats}
        with child.log.path.open("ab") as log:
            process = await self._born(child, environment) or await self._create(child, environment, log)
        child.pid = process.pid
        child.state = ProcessState.RUNNING
        if spec.answers is not None and self._hang.watches:
            self._tasks.start(f"ask {spec.name}", self._keep_asking(child, child.pid, spec.answers))
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
        child.hangs = child.hangs + 1 if child.hung else 0
        delay = 0.0 if was_well else self._backoff.delay(child.failures, refused=refused)
        problem = child.hung or child.obstacle or child.log.last_problem()
        name, words = child.spec.name, child.last_words
        gone = ProcessExit(name, child.pid, code, ran_s, child.restarts, delay, words, problem, child.hung)
        self._tell(self._on_exit, gone)
        return delay

    def _tell(self, listener: Callable[[T], None], news: T) -> None:
        """Call a listener; an exception in it is passed to `on_fault` and does not stop the supervision."""
        try:
            listener(news)
        except Exception as error:  # noqa: BLE001 - told where faults go
            self._on_fault("news", error)

    # -- hung ones -------------------------------------------------------------------------------

    async def _look(self) -> None:
        for child in list(self.children.values()):
            if child.state is ProcessState.RUNNING and child.silence is not None:
                self._look_at(child, child.silence)

    def _look_at(self, child: ChildProcess, silence: Silence) -> None:
        signs = child.signs
        self._heartbeats_work = self._heartbeats_work or (child.beats is not None and bool(signs))
        if not self._heartbeats_work and child.beats is not None:
            signs = None
        hung = silence.look(self._clock.now(), platform.run_of(child.pid), signs, child.hangs)
        if hung:
            self.end_hung(child.spec.name, hung)

    def end_hung(self, name: str, why: str) -> None:
        """Kill a process because it is hung; it is started again."""
        child = self.children.get(name)
        if child is not None and child.state is ProcessState.RUNNING:
            child.hung, child.silence = why, Silence(self._hang)
            platform.kill_group(child.pid)

    async def _keep_asking(self, child: ChildProcess, pid: int, answers: Callable[[], Awaitable[bool]]) -> None:
        while child.pid == pid and child.state is ProcessState.RUNNING:
            child.answers += await answers()
            await asyncio.sleep(ASK_S)

    # -- the end ---------------------------------------------------------------------------------

    def _ask(self, child: ChildProcess) -> None:
        if (
            child.state is ProcessState.RUNNING
            and self._hang.watches
            and platform.run_of(child.pid) is RunState.STOPPED
        ):
            platform.kill_group(child.pid)  # a stopped process handles no signal to drain
        elif child.state is ProcessState.RUNNING:
            platform.ask_to_stop(child.pid)
        elif child.state is ProcessState.WAITING:
            self._keepers[child.spec.name].cancel()
            child.state = ProcessState.ENDED

    async def _wait(self, timeout_s: float) -> list[str]:
        """Wait up to `timeout_s` seconds for all processes to end; returns the names of those that did not."""
        if self._keepers:
            await asyncio.wait(self._keepers.values(), timeout=timeout_s)
        return [name for name, keeper in self._keepers.items() if not keeper.done()]

    async def _rotate(self) -> None:
        for child in list(self.children.values()):
            child.log.rotate_if_big()


def _kill(child: ChildProcess) -> None:
    if child.state is ProcessState.RUNNING:  # before that its pid is 0, which means our own process group
        platform.kill_group(child.pid)
