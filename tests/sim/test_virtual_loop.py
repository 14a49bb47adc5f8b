"""Time is a number, and processes stop, continue and die as real ones do."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.sim.virtual_loop import Deadlock, Livelock, Process, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


class Ticker:
    """A process that notes the time every second."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.process = Process("ticker")
        self.times: list[float] = []
        self.closed = False
        self.task = loop.start(self.process, self._run(), "ticker")

    async def _run(self) -> None:
        try:
            while True:
                await asyncio.sleep(1.0)
                self.times.append(self.loop.time())
        finally:
            self.closed = True


def test_time_jumps_and_nothing_sleeps(loop: VirtualLoop) -> None:
    async def story() -> float:
        await asyncio.sleep(86_400.0 * 365)
        return asyncio.get_running_loop().time()

    assert loop.run_until_complete(story()) == pytest.approx(86_400.0 * 365)


def test_timers_fire_in_order(loop: VirtualLoop) -> None:
    fired: list[str] = []

    async def story() -> None:
        loop.call_later(2.0, fired.append, "late")
        loop.call_later(1.0, fired.append, "early")
        loop.call_soon(fired.append, "now")
        await asyncio.sleep(3.0)

    loop.run_until_complete(story())
    assert fired == ["now", "early", "late"]


def test_what_can_never_come_is_a_deadlock(loop: VirtualLoop) -> None:
    with pytest.raises(Deadlock, match="nothing is ready"):
        loop.run_until_complete(asyncio.Event().wait())


def test_turning_without_time_is_a_livelock(loop: VirtualLoop) -> None:
    async def story() -> None:
        while True:  # noqa: ASYNC110 - that it never ends is the point
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="turns"):
        loop.run_until_complete(story())


def test_turns_are_bounded() -> None:
    small = VirtualLoop(turns_max=100)

    async def story() -> None:
        while True:  # noqa: ASYNC110 - that it never ends is the point
            await asyncio.sleep(1)

    with pytest.raises(Livelock):
        small.run_until_complete(story())
    small.close()


def test_a_stopped_process_stands_still_and_then_goes_on(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)

    async def story() -> None:
        await asyncio.sleep(2.5)
        loop.between_turns(lambda: loop.stop_process(ticker.process))
        await asyncio.sleep(10.0)
        assert ticker.times == [1.0, 2.0]
        loop.between_turns(lambda: loop.continue_process(ticker.process))
        await asyncio.sleep(1.6)

    loop.run_until_complete(story())
    assert ticker.times == [1.0, 2.0, 12.5, 13.5]


def test_what_others_wake_in_a_stopped_process_waits(loop: VirtualLoop) -> None:
    process, seen = Process("sleeper"), list[float]()

    async def sleeper(bell: asyncio.Event) -> None:
        await bell.wait()
        seen.append(loop.time())

    async def story() -> None:
        bell = asyncio.Event()
        loop.start(process, sleeper(bell), "sleeper")
        await asyncio.sleep(1.0)
        loop.between_turns(lambda: loop.stop_process(process))
        await asyncio.sleep(1.0)
        bell.set()
        await asyncio.sleep(3.0)
        assert seen == []
        loop.between_turns(lambda: loop.continue_process(process))
        await asyncio.sleep(0.1)

    loop.run_until_complete(story())
    assert seen == [5.0]


def test_a_killed_process_runs_not_one_more_line(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)

    async def story() -> None:
        await asyncio.sleep(1.5)
        loop.between_turns(lambda: loop.kill_process(ticker.process))
        await asyncio.sleep(10.0)

    loop.run_until_complete(story())
    assert ticker.times == [1.0]
    assert not ticker.closed
    assert loop.tasks_left() == []


def test_a_stopped_world_with_nothing_else_is_a_deadlock(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)

    async def story() -> None:
        loop.between_turns(lambda: loop.stop_process(ticker.process))
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        loop.run_until_complete(story())


def test_threads_are_played(loop: VirtualLoop) -> None:
    def work(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number + 1

    async def story() -> float:
        assert await asyncio.to_thread(work, 1) == 2
        with pytest.raises(ValueError, match="negative"):
            await asyncio.to_thread(work, -1)
        return loop.time()

    assert loop.run_until_complete(story()) == pytest.approx(0.02)


def test_errors_that_nobody_awaits_are_noted(loop: VirtualLoop) -> None:
    async def story() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1.0)

    loop.run_until_complete(story())
    assert len(loop.errors) == 1
    assert "ZeroDivisionError" in loop.errors[0]
