"""What happens between a nursery and whoever asks it, in a process with one thread: `python -m ... SCENE FOLDER`."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

import twd
from tests.waiting import alive, until
from twd.cli.nursery import fork_off
from twd.kit import platform
from twd.kit.clock import SystemClock
from twd.kit.nursery import OURS, Inherited, Nursery
from twd.kit.supervisor import Exit, ProcessSpec, State, Supervisor
from twd.kit.tasks import TaskGroup

VERSION = (*OURS, "--version")
STAYS = (*OURS, "logs", "-f")
"""A process of ours that needs nobody and ends when it is told to."""


def fault(task: str, error: BaseException) -> None:
    raise AssertionError(f"{task} failed: {error!r}")


def environment(home: Path) -> dict[str, str]:
    """What a supervisor gives to its children."""
    return {**os.environ, **platform.Lifeline().environment, "TWD_HOME": str(home)}


async def born(nursery: Nursery, folder: Path) -> None:
    log = folder / "it.log"
    it = await nursery.birth(VERSION, environment(folder), log)
    assert it is not None
    assert await it.wait() == 0 == it.returncode
    assert twd.__version__ in log.read_text()
    wrong = await nursery.birth((*OURS, "no such command"), environment(folder), log)
    assert wrong is not None
    assert await wrong.wait() == 2
    assert "No such command" in log.read_text()


async def like_one_that_was_started(nursery: Nursery, folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "some.log").write_text("a line\n")
    log = folder / "it.log"
    log.touch()
    it = await nursery.birth(STAYS, environment(folder), log)
    assert it is not None
    await until(lambda: "a line" in log.read_text(), "it works, in the home that it was told")
    seen = psutil.Process(it.pid)
    assert seen.ppid() == os.getpid(), "it is ours"
    assert os.getsid(it.pid) == it.pid != os.getsid(0), "Ctrl-C does not reach it"
    assert " ".join(seen.cmdline()).startswith("twd logs -f")
    files = {number: os.readlink(f"/proc/{it.pid}/fd/{number}") for number in os.listdir(f"/proc/{it.pid}/fd")}
    assert (files["0"], files["1"], files["2"]) == (os.devnull, str(log), str(log))
    assert not [file for file in files.values() if file.startswith("socket")], "nothing of the nursery's is open in it"
    assert psutil.Process(nursery.pid).num_threads() == 1, "else a fork of it would be half a process"
    os.kill(it.pid, signal.SIGTERM)
    assert await it.wait() != 0


async def what_it_does_not_bring_up(nursery: Nursery, folder: Path) -> None:
    here = environment(folder)
    assert await nursery.birth((sys.executable, "-c", "0"), here, folder / "log") is None
    assert await nursery.birth(VERSION, {**here, "OMP_NUM_THREADS": "3"}, folder / "log") is None
    assert not (folder / "log").exists()
    assert await nursery.birth(VERSION, {**here, "TWD_DEBUG": "1"}, folder / "log") is not None


async def lost(nursery: Nursery, folder: Path) -> None:
    stays = await nursery.birth(STAYS, environment(folder), folder / "log")
    assert stays is not None
    await until((folder / "log").exists, "it has begun")
    os.kill(nursery.pid, signal.SIGKILL)
    assert await nursery.birth(VERSION, environment(folder), folder / "log") is None
    assert not nursery.pid
    assert alive(stays.pid), "it outlives where it was born"
    assert await nursery.birth(VERSION, environment(folder), folder / "log") is None, "and nobody waits for another"
    os.kill(stays.pid, signal.SIGKILL)
    assert await stays.wait() == -signal.SIGKILL


async def stopped(nursery: Nursery, folder: Path) -> None:
    pid = nursery.pid
    os.kill(pid, signal.SIGSTOP)
    assert await nursery.birth(VERSION, environment(folder), folder / "log") is None
    await until(lambda: not alive(pid), "it is ended")
    assert not (folder / "log").exists(), "nobody does it a second time"


async def replaced(nursery: Nursery, folder: Path) -> None:
    nursery.prepare((*OURS, "run", "stage"))
    for blow in (signal.SIGKILL, signal.SIGSTOP):
        pid = nursery.pid
        os.kill(pid, blow)
        await until(lambda pid=pid: nursery.pid not in (0, pid), "there is another one")  # type: ignore[misc]
        assert not alive(pid)
        it = await nursery.birth(VERSION, environment(folder), folder / "log")
        assert it is not None
        assert await it.wait() == 0
        assert psutil.Process(nursery.pid).num_threads() == 1


async def nobody_waits(nursery: Nursery, folder: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    os.kill(nursery.pid, signal.SIGSTOP)
    tasks = TaskGroup("scene", fault)
    asked = tasks.start("ask", nursery.birth(STAYS, environment(folder), folder / "log"))
    await asyncio.sleep(0)  # it asks
    asked.cancel()
    os.kill(nursery.pid, signal.SIGCONT)
    after = await nursery.birth(VERSION, environment(folder), folder / "log")
    assert after is not None
    assert await after.wait() == 0
    await until(lambda: {child.pid for child in psutil.Process().children()} <= before, "nothing is left of it")


async def orphans(nursery: Nursery, folder: Path) -> None:
    script = "import os, subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '0']).pid, flush=True)"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await parent.communicate()
    await until(lambda: not psutil.pid_exists(int(said)), "a process whose parent went away is no zombie")


async def supervised(nursery: Nursery, folder: Path) -> None:
    exits: list[Exit] = []
    specs = [ProcessSpec("ends", VERSION), ProcessSpec("other", (sys.executable, "-c", "print('other')"))]
    supervisor = Supervisor(
        specs,
        folder,
        SystemClock(),
        on_start=lambda child: None,
        on_exit=exits.append,
        on_fault=fault,
        nursery=nursery,
    )
    supervisor.start()
    await until(lambda: {gone.name for gone in exits[2:]} == {"ends", "other"}, "both ran, and again")
    await supervisor.stop(5.0)
    assert {gone.code for gone in exits} == {0}
    assert supervisor.children["ends"].state is State.ENDED
    assert twd.__version__ in (folder / "ends.log").read_text()
    assert "other" in (folder / "other.log").read_text()


SCENES: dict[str, Callable[[Nursery, Path], Awaitable[None]]] = {
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


async def play(forks: Inherited | None, scene: str, folder: Path) -> None:
    nursery = Nursery(forks, environment(folder), fault)
    await nursery.open()
    pid = nursery.pid
    assert pid, "there is one"
    try:
        async with asyncio.timeout(60):
            await SCENES[scene](nursery, folder)
    finally:
        await nursery.close()
    assert not alive(pid), "it ends when nobody needs it"


if __name__ == "__main__":
    forked = fork_off()
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        runner.run(play(forked, sys.argv[1], Path(sys.argv[2])))
