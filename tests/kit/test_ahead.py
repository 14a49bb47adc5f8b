"""A process that waits for its command line. Real processes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import twd
from tests.waiting import alive, until
from twd.kit.ahead import OURS, Ahead
from twd.kit.clock import SystemClock
from twd.kit.supervisor import Exit, ProcessSpec, State, Supervisor

VERSION = (*OURS, "--version")
SEES = {"TWD_RESOLVED": "/nowhere"}


@pytest.fixture
async def ahead() -> AsyncIterator[Ahead]:
    ahead = Ahead("stage")
    yield ahead
    await ahead.close()


async def test_one_that_waits_does_what_it_is_told_and_writes_to_the_log(ahead: Ahead, tmp_path: Path) -> None:
    await ahead.prepare(SEES)
    pid = ahead.pid
    await ahead.prepare(SEES)
    assert ahead.pid == pid, "one is enough"
    process = ahead.take(VERSION, SEES, tmp_path / "it.log")
    assert process is not None
    assert (process.pid, ahead.pid) == (pid, 0)
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    assert twd.__version__ in (tmp_path / "it.log").read_text()
    assert ahead.take(VERSION, SEES, tmp_path / "it.log") is None, "there is no second one"


async def test_what_it_cannot_become_starts_in_the_usual_way(ahead: Ahead, tmp_path: Path) -> None:
    await ahead.prepare(SEES)
    assert ahead.take(("/bin/true",), SEES, tmp_path / "log") is None
    assert ahead.take(VERSION, {}, tmp_path / "log") is None
    os.kill(ahead.pid, signal.SIGKILL)
    await until(lambda: not ahead.pid, "its end is seen")
    assert ahead.take(VERSION, SEES, tmp_path / "log") is None


async def test_one_that_nobody_needs_ends(ahead: Ahead) -> None:
    await ahead.prepare(SEES)
    pid = ahead.pid
    await ahead.let_go()
    assert not alive(pid)
    await ahead.prepare(SEES)
    again = ahead.pid
    os.kill(again, signal.SIGSTOP)
    await ahead.close()
    assert not alive(again), "even one that does not listen"
    await ahead.prepare(SEES)
    assert not ahead.pid, "after the end there are no more"


async def test_a_lost_process_is_replaced_by_the_one_that_waits(ahead: Ahead, tmp_path: Path) -> None:
    exits: list[Exit] = []

    def fault(task: str, error: BaseException) -> None:
        raise AssertionError(f"{task} failed: {error!r}")

    await ahead.prepare(SEES)
    waiting = ahead.pid
    spec = ProcessSpec("it", VERSION, environment=SEES, ahead=ahead)
    supervisor = Supervisor(
        [spec], tmp_path, SystemClock(), on_start=lambda child: None, on_exit=exits.append, on_fault=fault
    )
    supervisor.start()
    try:
        await until(lambda: len(exits) > 1, "it ran, and again without help")
    finally:
        await supervisor.stop(5.0)
    assert exits[0].pid == waiting
    assert exits[1].pid != waiting
    assert {one.code for one in exits} == {0}
    assert supervisor.children["it"].state is State.ENDED
