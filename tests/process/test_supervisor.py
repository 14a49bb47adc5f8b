"""Processes kept alive: restarted with growing pauses, ended in order, told with their last words. Real processes."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import alive, until
from twd.kit.clock import SystemClock
from twd.kit.exit_codes import ExitCode
from twd.kit.tasks import TaskGroup
from twd.process.hang import USUAL, HangPolicy
from twd.process.supervisor import NO_PROGRAM, Backoff, ChildProcess, ProcessExit, ProcessSpec, ProcessState, Supervisor

PYTHON = (sys.executable, "-S", "-c")
FOR_EVER = (*PYTHON, "import time; print('up', flush=True); time.sleep(600)")
DEAF = (*PYTHON, "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")
QUICK = Backoff(first_s=0.001, longest_s=0.002)
EAGER = HangPolicy(look_s=0.05)


class Beating(ProcessSpec):
    """A process that is expected to show a heartbeat."""

    @property
    def beats(self) -> bool:
        return True


def beating(name: str, times: int) -> ProcessSpec:
    """One that says so often that it lives, and then stands still."""
    script = f"""
import time
from twd.process.heartbeat import Heartbeat
heart = Heartbeat.inherited()
print("nobody counts" if heart is None else "counted", flush=True)
for _ in range({times} if heart else 0):
    heart.beat()
    time.sleep(0.05)
time.sleep(600)
"""
    return Beating(name, (sys.executable, "-c", script))


class Told:
    """What the supervisor said."""

    def __init__(self) -> None:
        self.starts: list[tuple[str, int]] = []
        self.exits: list[ProcessExit] = []
        self.news = asyncio.Event()

    def started(self, child: ChildProcess) -> None:
        self.starts.append((child.spec.name, child.pid))
        self.news.set()

    def exited(self, gone: ProcessExit) -> None:
        self.exits.append(gone)
        self.news.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.news.clear()
                await self.news.wait()


def fault(task: str, error: BaseException) -> None:
    raise AssertionError(f"{task} failed: {error!r}")


def broken(news: object) -> None:
    raise RuntimeError("whoever listens is broken")


@asynccontextmanager
async def supervised(
    folder: Path, *specs: ProcessSpec, backoff: Backoff = QUICK, drain_s: float = 5.0, hang: HangPolicy = USUAL
) -> AsyncIterator[tuple[Supervisor, Told]]:
    told = Told()
    supervisor = Supervisor(
        specs,
        folder,
        SystemClock(),
        on_start=told.started,
        on_exit=told.exited,
        on_fault=fault,
        backoff=backoff,
        hang=hang,
    )
    supervisor.start()
    try:
        yield supervisor, told
    finally:
        await supervisor.stop(drain_s)


async def until_written(log: Path, text: str) -> None:
    await until(lambda: log.exists() and text in log.read_text(), f"{text!r} in {log.name}")


async def until_up(folder: Path, told: Told, name: str) -> None:
    """It runs, and its supervisor knows: a process may write before its start is told."""
    await until_written(folder / f"{name}.log", "up")
    await told.until(lambda: name in dict(told.starts))


async def test_all_start_at_once_and_end_when_told(tmp_path: Path) -> None:
    specs = [ProcessSpec(name, FOR_EVER) for name in ("one", "two", "three")]
    async with supervised(tmp_path, *specs) as (supervisor, told):
        await told.until(lambda: len(told.starts) == 3)
        pids = [pid for _, pid in told.starts]
        assert await supervisor.stop(10) == []
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert all(child.state is ProcessState.ENDED for child in supervisor.children.values())
    assert told.exits == []


async def test_a_dead_process_comes_back_and_its_last_words_are_told(tmp_path: Path) -> None:
    command = (*PYTHON, "import sys; sys.stderr.write('the disk is full\\n'); sys.exit(3)")
    async with supervised(tmp_path, ProcessSpec("job", command)) as (_, told):
        await told.until(lambda: len(told.starts) >= 3)
    first = told.exits[0]
    assert (first.code, first.problem, first.restarts) == (3, "the disk is full", 0)
    assert "the disk is full" in first.last_words
    assert told.exits[1].restarts == 1
    assert len({pid for _, pid in told.starts[:3]}) == 3


async def test_last_words_are_those_of_this_run(tmp_path: Path) -> None:
    command = (*PYTHON, "import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 9)")
    async with supervised(tmp_path, ProcessSpec("job", command)) as (_, told):
        await told.until(lambda: len(told.exits) >= 2)
    assert [gone.last_words for gone in told.exits[:2]] == [str(gone.pid) for gone in told.exits[:2]]
    assert told.exits[0].code == -9


async def test_one_that_does_not_listen_is_killed_at_the_deadline(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("deaf", DEAF), ProcessSpec("good", FOR_EVER)) as (supervisor, told):
        await until_up(tmp_path, told, "deaf")
        await until_up(tmp_path, told, "good")
        assert await supervisor.stop(0.5) == ["deaf"]
        assert not any(psutil.pid_exists(pid) for _, pid in told.starts)


async def test_a_stopped_process_is_killed_too(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("frozen", FOR_EVER)) as (supervisor, told):
        await until_up(tmp_path, told, "frozen")
        frozen = psutil.Process(told.starts[0][1])
        frozen.suspend()
        await until(lambda: frozen.status() == psutil.STATUS_STOPPED, "it stands still")
        assert await supervisor.stop(10) == []
        assert not alive(frozen.pid)


async def test_one_that_is_stopped_while_it_ends_is_not_waited_for(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("deaf", DEAF), hang=EAGER) as (supervisor, told):
        await until_up(tmp_path, told, "deaf")
        tasks = TaskGroup("test", fault)
        ending = tasks.start("stop", supervisor.stop(60))
        await asyncio.sleep(0)  # it is asked
        psutil.Process(told.starts[0][1]).suspend()
        assert await ending == []


async def test_a_stopped_process_is_ended_and_another_one_starts(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("frozen", FOR_EVER), hang=EAGER) as (_, told):
        await until_up(tmp_path, told, "frozen")
        psutil.Process(told.starts[0][1]).suspend()
        await told.until(lambda: len(told.starts) == 2)
    assert (told.exits[0].code, told.exits[0].hung, told.exits[0].problem) == (-9, "it was stopped", "it was stopped")


async def test_a_service_whose_heart_stops_is_hung_and_one_whose_heart_beats_is_not(tmp_path: Path) -> None:
    specs = [beating("still", 1), beating("lively", 10_000)]
    async with supervised(tmp_path, *specs, hang=HangPolicy(silence_s=0.5, look_s=0.05)) as (supervisor, told):
        await told.until(lambda: len(told.exits) > 1)
        assert supervisor.children["lively"].restarts == 0
    assert {gone.name for gone in told.exits} == {"still"}
    assert told.exits[0].hung.startswith("it showed no sign of life for ")


async def test_a_program_that_answered_and_does_so_no_more_is_hung(tmp_path: Path) -> None:
    asked: list[bool] = []

    async def answers() -> bool:
        asked.append(True)
        return len(asked) == 2

    spec = ProcessSpec("server", FOR_EVER, foreign=True, answers=answers)
    async with supervised(tmp_path, spec, hang=HangPolicy(silence_s=0.1, look_s=0.05)) as (_, told):
        await told.until(lambda: len(told.exits) == 1)
    assert "no sign of life" in told.exits[0].hung


async def test_who_is_told_to_watch_nobody_ends_nobody(tmp_path: Path) -> None:
    spec = beating("still", 1)
    async with supervised(tmp_path, spec, hang=HangPolicy(silence_s=0.0)) as (supervisor, told):
        await told.until(lambda: len(told.starts) == 1)
        child = supervisor.children["still"]
        await until_written(tmp_path / "still.log", "nobody counts")
        assert child.beats is None
    assert told.exits == []


async def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    command = (
        *PYTHON,
        "import subprocess, os; print(subprocess.Popen(['sleep', '600']).pid, flush=True); os.kill(os.getpid(), 9)",
    )
    async with supervised(tmp_path, ProcessSpec("parent", command)) as (_, told):
        await told.until(lambda: len(told.exits) >= 1)
        left = int(told.exits[0].last_words)
        await until(lambda: not alive(left), "the grandchild is gone")


async def test_a_program_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("ghost", ("/no/such/program",))) as (_, told):
        await told.until(lambda: len(told.exits) >= 2)
    assert told.exits[0].code == NO_PROGRAM
    assert "/no/such/program cannot be started" in told.exits[0].problem


async def test_a_foreign_program_that_is_not_there_is_told_too(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("ghost", ("/no/such/program",), foreign=True)) as (_, told):
        await told.until(lambda: len(told.exits) >= 1)
    assert told.exits[0].code == NO_PROGRAM
    assert "cannot be started" in told.exits[0].problem


async def test_where_no_log_can_be_written_it_is_told_even_so_why_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "ghost.log").mkdir()
    async with supervised(tmp_path, ProcessSpec("ghost", ("/no/such/program",))) as (supervisor, told):
        await told.until(lambda: len(told.exits) >= 2)
        assert "cannot be started" in supervisor.children["ghost"].last_words
    assert "/no/such/program cannot be started" in told.exits[0].problem
    assert told.exits[0].last_words == told.exits[0].problem


async def test_preparing_happens_before_each_start(tmp_path: Path) -> None:
    prepared: list[int] = []
    spec = ProcessSpec("job", (*PYTHON, "pass"), prepare=lambda: prepared.append(1))
    async with supervised(tmp_path, spec) as (_, told):
        await told.until(lambda: len(told.starts) >= 3)
        assert len(prepared) >= 3


async def test_stopping_while_it_waits_for_the_next_try_is_quick(tmp_path: Path) -> None:
    slow = Backoff(first_s=600, short_s=600)
    async with supervised(tmp_path, ProcessSpec("job", (*PYTHON, "pass")), backoff=slow) as (supervisor, told):
        await told.until(lambda: len(told.exits) == 1)
        assert await supervisor.stop(10) == []


@pytest.mark.thorough
@pytest.mark.slow
async def test_a_thousand_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    me = psutil.Process()
    async with supervised(tmp_path, ProcessSpec("job", ("true",))) as (_, told):
        await told.until(lambda: len(told.exits) >= 20)
        files, threads = me.num_fds(), threading.active_count()
        await told.until(lambda: len(told.exits) >= 1020, timeout_s=120)
        assert me.num_fds() <= files + 3
        assert threading.active_count() <= threads + 3
    assert me.children() == []


@given(st.integers(1, 10_000))
def test_pauses_grow_to_a_bound(failures: int) -> None:
    backoff = Backoff()
    assert backoff.delay(1) == 0.1
    for refused in (False, True):
        assert backoff.delay(failures, refused=refused) <= backoff.delay(failures + 1, refused=refused) <= 10.0
    assert backoff.delay(failures) <= backoff.delay(failures, refused=True)


async def test_one_that_cannot_start_was_never_well(tmp_path: Path) -> None:
    tried = Backoff(first_s=0.001, longest_s=0.002, healthy_s=0.0)
    specs = [ProcessSpec(str(code), (*PYTHON, f"import sys; sys.exit({code})")) for code in (ExitCode.CANNOT_START, 1)]
    async with supervised(tmp_path, *specs, backoff=tried) as (_, told):
        await told.until(lambda: len({gone.name for gone in told.exits}) == 2)
    pauses = {gone.name: gone.retry_in_s for gone in reversed(told.exits)}
    assert pauses == {str(int(ExitCode.CANNOT_START)): 0.001, "1": 0.0}


async def test_one_process_comes_and_goes_while_others_stay(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("stays", FOR_EVER)) as (supervisor, told):
        await told.until(lambda: len(told.starts) == 1)
        supervisor.add(ProcessSpec("guest", FOR_EVER))
        await told.until(lambda: len(told.starts) == 2)
        guest = supervisor.children["guest"].pid
        assert await supervisor.remove("guest", 10)
        assert not psutil.pid_exists(guest)
        assert list(supervisor.children) == ["stays"]
        assert told.exits == []
        assert await supervisor.remove("guest", 10)  # one that is not there is no error
        supervisor.add(ProcessSpec("guest", FOR_EVER))
        await told.until(lambda: len(told.starts) == 3)


async def test_one_that_does_not_listen_is_killed_when_it_goes(tmp_path: Path) -> None:
    async with supervised(tmp_path, ProcessSpec("deaf", DEAF)) as (supervisor, told):
        await until_up(tmp_path, told, "deaf")
        pid = supervisor.children["deaf"].pid
        assert not await supervisor.remove("deaf", 0.3)
        assert not alive(pid)


async def test_one_that_goes_before_it_came_takes_nobody_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Supervisor, child: ChildProcess, *how: object) -> None:
        await asyncio.Event().wait()

    killed: list[int] = []
    monkeypatch.setattr(Supervisor, "_create", never)
    monkeypatch.setattr("twd.process.supervisor.KILLED_S", 0.01)
    monkeypatch.setattr("twd.process.platform.kill_group", killed.append)
    async with supervised(tmp_path, drain_s=0.01) as (supervisor, _):
        supervisor.add(ProcessSpec("late", FOR_EVER))
        await asyncio.sleep(0)  # it is being started, and has no pid yet
        assert not await supervisor.remove("late", 0.01)
    assert killed == []


async def test_one_that_waits_for_its_next_try_goes_at_once(tmp_path: Path) -> None:
    slow = Backoff(first_s=600, short_s=600)
    async with supervised(tmp_path, ProcessSpec("job", (*PYTHON, "pass")), backoff=slow) as (supervisor, told):
        await told.until(lambda: len(told.exits) == 1)
        assert await supervisor.remove("job", 10)
        assert supervisor.children == {}


async def test_faults_of_those_who_listen_are_told_and_end_no_process(tmp_path: Path) -> None:
    faults: list[str] = []
    short, good = ProcessSpec("short", (*PYTHON, "")), ProcessSpec("good", FOR_EVER)
    supervisor = Supervisor(
        (short, good),
        tmp_path,
        SystemClock(),
        on_start=broken,
        on_exit=broken,
        on_fault=lambda task, error: faults.append(str(error)),
        backoff=QUICK,
    )
    supervisor.start()
    await until(lambda: supervisor.children["short"].restarts > 2, "it is started again")
    assert len(faults) > 5
    assert set(faults) == {"whoever listens is broken"}
    assert alive(supervisor.children["good"].pid)
    await supervisor.stop(5)


async def test_a_process_that_cannot_be_prepared_is_told_and_tried_again(tmp_path: Path) -> None:
    faults: list[str] = []
    told, tries = Told(), iter(range(100))

    def prepare() -> None:
        if next(tries) < 2:
            raise RuntimeError("not yet")

    supervisor = Supervisor(
        (ProcessSpec("job", FOR_EVER, prepare=prepare),),
        tmp_path,
        SystemClock(),
        on_start=told.started,
        on_exit=told.exited,
        on_fault=lambda task, error: faults.append(f"{task}: {error}"),
        backoff=QUICK,
    )
    supervisor.start()
    await told.until(lambda: bool(told.starts))
    assert faults == ["job: not yet"] * 2
    assert [gone.code for gone in told.exits] == [NO_PROGRAM] * 2
    assert "not yet" in told.exits[0].problem
    await supervisor.stop(5)
