"""Scenes between a fork server and its client, in a process with one thread: `python -m ... SCENE FOLDER`."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

import twd
from tests.waiting import alive, until
from twd.cli.fork_server import fork_off
from twd.kit.clock import SystemClock
from twd.kit.tasks import TaskGroup
from twd.process import platform
from twd.process.fork_server import OURS, ForkServer, ForkServerHandle
from twd.process.supervisor import ProcessExit, ProcessSpec, ProcessState, Supervisor

VERSION = (*OURS, "--version")
STAYS = (*OURS, "logs", "-f")
"""A process of ours that needs nobody and ends when it is told to."""


def fault(task: str, error: BaseException) -> None:
    raise AssertionError(f"{task} failed: {error!r}")


def environment(home: Path) -> dict[str, str]:
    """What a supervisor gives to its children."""
    return {**os.environ, **platform.Lifeline().environment, "TWD_HOME": str(home)}


async def born(fork_server: ForkServer, folder: Path) -> None:
    log = folder / "it.log"
    it = await fork_server.birth(VERSION, environment(folder), log)
    assert it is not None
    assert await it.wait() == 0 == it.returncode
    assert twd.__version__ in log.read_text()
    wrong = await fork_server.birth((*OURS, "no such command"), environment(folder), log)
    assert wrong is not None
    assert await wrong.wait() == 2
    assert "No such command" in log.read_text()


async def like_one_that_was_started(fork_server: ForkServer, folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "some.log").write_text("a line\n")
    log = folder / "it.log"
    log.touch()
    it = await fork_server.birth(STAYS, environment(folder), log)
    assert it is not None
    await until(lambda: "a line" in log.read_text(), "it works, in the home that it was told")
    seen = psutil.Process(it.pid)
    assert seen.ppid() == os.getpid(), "it is ours"
    assert os.getsid(it.pid) == it.pid != os.getsid(0), "Ctrl-C does not reach it"
    assert " ".join(seen.cmdline()).startswith("twd logs -f")
    files = {number: os.readlink(f"/proc/{it.pid}/fd/{number}") for number in os.listdir(f"/proc/{it.pid}/fd")}
    assert (files["0"], files["1"], files["2"]) == (os.devnull, str(log), str(log))
    assert not [file for file in files.values() if file.startswith("socket")], "nothing of the nursery's is open in it"
    assert psutil.Process(fork_server.pid).num_threads() == 1, "else a fork of it would be half a process"
    os.kill(it.pid, signal.SIGTERM)
    assert await it.wait() != 0


async def what_it_does_not_bring_up(fork_server: ForkServer, folder: Path) -> None:
    here = environment(folder)
    assert await fork_server.birth((sys.executable, "-c", "0"), here, folder / "log") is None
    assert await fork_server.birth(VERSION, {**here, "OMP_NUM_THREADS": "3"}, folder / "log") is None
    assert not (folder / "log").exists()
    assert await fork_server.birth(VERSION, {**here, "TWD_DEBUG": "1"}, folder / "log") is not None


async def lost(fork_server: ForkServer, folder: Path) -> None:
    stays = await fork_server.birth(STAYS, environment(folder), folder / "log")
    assert stays is not None
    await until((folder / "log").exists, "it has begun")
    os.kill(fork_server.pid, signal.SIGKILL)
    assert await fork_server.birth(VERSION, environment(folder), folder / "log") is None
    assert not fork_server.pid
    assert alive(stays.pid), "it outlives where it was born"
    assert await fork_server.birth(VERSION, environment(folder), folder / "log") is None, "and nobody waits for another"
    os.kill(stays.pid, signal.SIGKILL)
    assert await stays.wait() == -signal.SIGKILL


async def stopped(fork_server: ForkServer, folder: Path) -> None:
    pid = fork_server.pid
    os.kill(pid, signal.SIGSTOP)
    assert await fork_server.birth(VERSION, environment(folder), folder / "log") is None
    await until(lambda: not alive(pid), "it is ended")
    assert not (folder / "log").exists(), "nobody does it a second time"


async def replaced(fork_server: ForkServer, folder: Path) -> None:
    fork_server.prepare((*OURS, "run", "stage"))
    for blow in (signal.SIGKILL, signal.SIGSTOP):
        pid = fork_server.pid
        os.kill(pid, blow)
        await until(lambda pid=pid: fork_server.pid not in (0, pid), "there is another one")  # type: ignore[misc]
        assert not alive(pid)
        it = await fork_server.birth(VERSION, environment(folder), folder / "log")
        assert it is not None
        assert await it.wait() == 0
        assert psutil.Process(fork_server.pid).num_threads() == 1


async def nobody_waits(fork_server: ForkServer, folder: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    os.kill(fork_server.pid, signal.SIGSTOP)
    tasks = TaskGroup("scene", fault)
    asked = tasks.start("ask", fork_server.birth(STAYS, environment(folder), folder / "log"))
    await asyncio.sleep(0)  # it asks
    asked.cancel()
    os.kill(fork_server.pid, signal.SIGCONT)
    after = await fork_server.birth(VERSION, environment(folder), folder / "log")
    assert after is not None
    assert await after.wait() == 0
    await until(lambda: {child.pid for child in psutil.Process().children()} <= before, "nothing is left of it")


async def orphans(fork_server: ForkServer, folder: Path) -> None:
    script = "import os, subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '0']).pid, flush=True)"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await parent.communicate()
    await until(lambda: not psutil.pid_exists(int(said)), "a process whose parent went away is no zombie")


async def supervised(fork_server: ForkServer, folder: Path) -> None:
    exits: list[ProcessExit] = []
    specs = [ProcessSpec("ends", VERSION), ProcessSpec("other", (sys.executable, "-c", "print('other')"))]
    supervisor = Supervisor(
        specs,
        folder,
        SystemClock(),
        on_start=lambda child: None,
        on_exit=exits.append,
        on_fault=fault,
        fork_server=fork_server,
    )
    supervisor.start()
    await until(lambda: {gone.name for gone in exits[2:]} == {"ends", "other"}, "both ran, and again")
    await supervisor.stop(5.0)
    assert {gone.code for gone in exits} == {0}
    assert supervisor.children["ends"].state is ProcessState.ENDED
    assert twd.__version__ in (folder / "ends.log").read_text()
    assert "other" in (folder / "other.log").read_text()


SCENES: dict[str, Callable[[ForkServer, Path], Awaitable[None]]] = {
    scene.__name__: scene
    for scene in (
        born,
        like_one_that_was_started,
        what_it_does_not_bring_up,
        lost,
        stopped,
        replaced,
        nobody_waits,
        orphans,
        supervised,
    )
}


async def play(forks: ForkServerHandle | None, scene: str, folder: Path) -> None:
    fork_server = ForkServer(forks, environment(folder), fault)
    await fork_server.open()
    pid = fork_server.pid
    assert pid, "there is one"
    try:
        async with asyncio.timeout(60):
            await SCENES[scene](fork_server, folder)
    finally:
        await fork_server.close()
    assert not alive(pid), "it ends when nobody needs it"


if __name__ == "__main__":
    forked = fork_off()
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        runner.run(play(forked, sys.argv[1], Path(sys.argv[2])))
