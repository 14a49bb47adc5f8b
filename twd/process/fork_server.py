"""Processes of this program that are born, not started: a process that has imported everything forks them.

Half of what a start takes is imports; what is forked has them already, and shares their memory. Whatever is wrong with
the fork server, a process starts in the usual way, as it does on systems that have none (`platform.can_adopt`).
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
"""How command lines begin that a fork server can bring up."""
BIRTH_S: Final = 10.0
"""Imports on a slow machine that does much else are in it."""
REAP_S: Final = 1.0
LOOK_S: Final = 0.5
AGAIN_S: Final = 0.5
AGAIN_MAX_S: Final = 5.0
"""Between the loss of the fork server and the start of another one; it grows while they are lost at once."""
PROGRAM: Final = (sys.executable, "-P", "-m", "twd.cli.fork_server")
"""A fork server that is started by a process that cannot fork it off: the number of its socket comes behind."""
_log = logging.getLogger("twd.process.fork_server")


class ForkRequest(msgspec.Struct, frozen=True, tag="birth"):
    """Bring up `twd ARGUMENTS...` with these variables and no others."""

    arguments: list[str]
    environment: dict[str, str]
    log: str


class PreloadRequest(msgspec.Struct, frozen=True, tag="ready"):
    """Import what such a process needs, before anybody waits for it."""

    arguments: list[str]


class ForkReply(msgspec.Struct, frozen=True):
    """The answer to either."""

    pid: int = 0
    problem: str = ""


class ForkServerHandle(NamedTuple):
    """A fork server that was forked off before this process began its work."""

    orders: socket.socket
    pid: int


class ForkedChild:
    """A child that somebody else forked for us."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._handle = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._handle, self._reap)

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it lives."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Until it has ended."""
        return await asyncio.shield(self._ended)

    def _reap(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._ended.set_result(os.waitstatus_to_exitcode(status))


class ForkServer:
    """The fork server, as the one that wants processes sees it. One that is stopped or killed is replaced."""

    def __init__(
        self,
        forks: ForkServerHandle | None,
        environment: Mapping[str, str],
        on_fault: OnError,
        hang: HangPolicy = USUAL,
    ) -> None:
        """`environment`: what nearly all processes see; one that sees other variables starts in the usual way.

        Libraries read theirs when they are loaded, and that is before anybody is born. TWD's own may differ.
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
        """What each fork server imports before anybody waits for it."""

    @property
    def pid(self) -> int:
        """The process that forks; 0 where there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def open(self) -> None:
        """Begin; what it brings up will be ours."""
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
        """A fork server that was stopped would keep everybody waiting who asks it."""
        if self._process is None:
            return
        now = asyncio.get_running_loop().time()
        if self._silence.look(now, platform.run_of(self._process.pid), None):
            _log.warning("the fork server (pid %d) was stopped; it is ended and another one starts", self._process.pid)
            await self._let_go()

    async def _keep_replacing(self) -> None:
        """Meanwhile processes start in the usual way."""
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
        """Have it import what such a process needs."""
        self._prepared[tuple(argv[len(OURS) :])] = None
        self._prepare_again()

    def _prepare_again(self) -> None:
        for arguments in self._prepared if self._streams is not None else ():
            self._tasks.start("prepare", self._ask(PreloadRequest(list(arguments))))

    async def birth(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedChild | None:
        """A process with this command line; None: it must be started in the usual way."""
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
        """No more of them; those that were born live on."""
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
                        writer.write(b"\n")  # whoever is not told to begin will not
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
        """Those whose parents ended came to us. What has an owner here is gone long before the second look."""
        seen = platform.ended_children()
        platform.reap(seen & self._orphans)
        self._orphans = seen - self._orphans


def _start(environment: Mapping[str, str]) -> ForkServerHandle:
    """A new fork server, in an interpreter of its own: a process with threads and a loop cannot fork one off."""
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
    """Whoever asked went away meanwhile."""
    born = None if asked.cancelled() or asked.exception() is not None else asked.result()
    if born is not None:
        platform.kill_group(born.pid)
