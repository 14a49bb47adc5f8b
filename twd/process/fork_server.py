"""A fork server has imported twd and forks its services, which saves them the time of the imports.

Half of the time of a start is imports. A forked process has them already, and shares their memory. If the fork server
fails, or the system has none (`platform.can_adopt`), a process starts as a new process.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twd.kit.tasks import WELL_S, OnError, TaskGroup, every
from twd.process import platform
from twd.process.hang import USUAL, HangPolicy, Silence

OURS: Final = (sys.executable, "-P", "-m", "twd")
"""A fork server can run command lines that begin like this."""
BIRTH_S: Final = 10.0
"""Seconds to wait for a fork; it may include imports on a slow, busy machine."""
REAP_S: Final = 1.0
LOOK_S: Final = 0.5
AGAIN_S: Final = 0.5
AGAIN_MAX_S: Final = 2.0
"""Longest pause in seconds before a new fork server starts; the pause grows if it is lost again soon."""
PROGRAM: Final = (sys.executable, "-P", "-m", "twd.cli.fork_server")
"""The command that starts a fork server as a new process; the number of its socket is added."""
_log = logging.getLogger("twd.process.fork_server")


class ForkRequest(msgspec.Struct, frozen=True, tag="birth"):
    """Fork a process that runs `twd ARGUMENTS...` with exactly these environment variables."""

    arguments: list[str]
    environment: dict[str, str]
    log: str


class PreloadRequest(msgspec.Struct, frozen=True, tag="ready"):
    """Import the modules that `twd ARGUMENTS...` needs, before the first fork."""

    arguments: list[str]


class ForkReply(msgspec.Struct, frozen=True):
    """The answer to a ForkRequest or a PreloadRequest."""

    pid: int = 0
    problem: str = ""


class ForkServerHandle(NamedTuple):
    """The socket and pid of a fork server that runs."""

    orders: socket.socket
    pid: int


class ForkedChild:
    """A child process that the fork server forked for this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._handle = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._handle, self._reap)

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the process lives."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return await asyncio.shield(self._ended)

    def _reap(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._ended.set_result(os.waitstatus_to_exitcode(status))


class ForkServer:
    """The client of the fork server. A fork server that is stopped or killed is replaced."""

    def __init__(
        self,
        forks: ForkServerHandle | None,
        environment: Mapping[str, str],
        on_fault: OnError,
        hang: HangPolicy = USUAL,
    ) -> None:
        """`environment`: the variables of nearly all processes; one with other variables starts as a new process.

        Libraries read their variables when they are loaded, before the fork. Variables of twd (TWD_...) may differ.
        """
        self._forks = forks
        self._environment = _not_ours(environment)
        self._hang = hang
        self._lost = asyncio.Event()
        self._tasks = TaskGroup("fork server", on_fault)
        self._one_at_a_time = asyncio.Lock()
        self._process: ForkedChild | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._silence = Silence(hang)
        self._orphans: set[int] = set()
        self._prepared: dict[tuple[str, ...], None] = {}
        """The arguments of all PreloadRequests; each new fork server gets them again."""

    @property
    def pid(self) -> int:
        """The pid of the fork server; 0 if there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def open(self) -> None:
        """Start to use the fork server; this process becomes the parent of what it forks."""
        if self._forks is not None and platform.adopt_orphans():
            await self._take(self._forks)
            self._tasks.keep("reap", partial(every, REAP_S, self._reap_orphans))
            self._tasks.keep("replace", self._keep_replacing)
            if self._hang.watches:
                self._tasks.keep("look", partial(every, LOOK_S, self._look))

    async def _take(self, forks: ForkServerHandle) -> None:
        self._lost.clear()
        process, self._silence = ForkedChild(forks.pid), Silence(self._hang)
        self._streams = await asyncio.open_unix_connection(sock=forks.orders)
        self._process = process
        self._tasks.start("notice its end", self._notice_end(process))

    async def _notice_end(self, process: ForkedChild) -> None:
        await process.wait()
        if self._process is process:
            await self._let_go()

    async def _look(self) -> None:
        """Kill a fork server that was stopped: it would let everybody wait who sends it a request."""
        if self._process is None:
            return
        now = asyncio.get_running_loop().time()
        if self._silence.look(now, platform.run_of(self._process.pid), None):
            _log.warning("the fork server (pid %d) was stopped; it is ended and another one starts", self._process.pid)
            await self._let_go()

    async def _keep_replacing(self) -> None:
        """Start a new fork server after each loss; until then processes start as new processes."""
        clock, pause_s = asyncio.get_running_loop().time, AGAIN_S
        while True:
            began = clock()
            await self._lost.wait()
            pause_s = AGAIN_S if clock() - began > WELL_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(AGAIN_MAX_S, 2 * pause_s)
            await self._take(_start(self._environment))
            self._prepare_again()

    def prepare(self, argv: Sequence[str]) -> None:
        """Let the fork server import the modules that this command line needs."""
        self._prepared[tuple(argv[len(OURS) :])] = None
        self._prepare_again()

    def _prepare_again(self) -> None:
        for arguments in self._prepared if self._streams is not None else ():
            self._tasks.start("prepare", self._ask(PreloadRequest(list(arguments))))

    async def birth(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedChild | None:
        """Fork a process with this command line; None: it must be started as a new process."""
        if self._streams is None or tuple(argv[: len(OURS)]) != OURS or _not_ours(environment) != self._environment:
            return None
        birth = ForkRequest(list(argv[len(OURS) :]), dict(environment), str(log))
        asked = self._tasks.start("birth", self._ask(birth))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(_nobody_wants)
            raise

    async def close(self) -> None:
        """Stop the fork server; processes that it forked go on."""
        await self._tasks.close()
        await self._let_go()

    async def _ask(self, order: ForkRequest | PreloadRequest) -> ForkedChild | None:
        async with self._one_at_a_time:
            if self._streams is None:
                return None
            reader, writer = self._streams
            try:
                async with asyncio.timeout(BIRTH_S):
                    writer.write(msgspec.json.encode(order) + b"\n")
                    done = msgspec.json.decode(await reader.readline(), type=ForkReply)
                    if done.pid:
                        writer.write(b"\n")  # a forked child waits for this line before it begins
            except (OSError, TimeoutError, ValueError) as error:
                _log.warning("processes start in the usual way until there is another fork server: %r", error)
                if self._streams is not None and self._streams[1] is writer:
                    await self._let_go()
                return None
        if done.problem:
            _log.warning("twd %s starts in the usual way: %s", " ".join(order.arguments), done.problem)
        return ForkedChild(done.pid) if done.pid else None

    async def _let_go(self) -> None:
        process, streams, self._process, self._streams = self._process, self._streams, None, None
        self._lost.set()
        if streams is not None:
            streams[1].close()
        if process is not None and process.returncode is None:
            platform.kill_group(process.pid)
            await process.wait()

    async def _reap_orphans(self) -> None:
        """Reap orphans at the second look; children with an owner here are reaped by that owner before."""
        seen = platform.ended_children()
        platform.reap(seen & self._orphans)
        self._orphans = seen - self._orphans


def _start(environment: Mapping[str, str]) -> ForkServerHandle:
    """Start a fork server as a new process: a process with threads and an event loop cannot fork safely."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.set_inheritable(True)
        variables = {**environment, platform.PARENT_VARIABLE: str(os.getpid())}
        try:
            pid = os.posix_spawn(sys.executable, (*PROGRAM, str(theirs.fileno())), variables)
        except OSError:
            ours.close()
            raise
    return ForkServerHandle(ours, pid)


def _not_ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("TWD_")}


def _nobody_wants(asked: "asyncio.Task[ForkedChild | None]") -> None:
    """The caller of `birth` was cancelled: kill the child that was forked for it."""
    born = None if asked.cancelled() or asked.exception() is not None else asked.result()
    if born is not None:
        platform.kill_group(born.pid)
