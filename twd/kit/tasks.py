"""Named background tasks, owned by somebody: none is lost, none fails in silence."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 60.0
WELL_S: Final = 120.0
"""What ran for so long did not fail over and over."""

OnError = Callable[[str, BaseException], None]


class TaskGroup:
    """The tasks of one owner. Whatever error ends one of them is told to `on_error`."""

    def __init__(self, owner: str, on_error: OnError) -> None:
        self._owner = owner
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in the background under this owner."""
        if self._closed:
            work.close()
            raise RuntimeError(f"{self._owner} is closed; it cannot start {name}")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], told: OnError | None = None
    ) -> asyncio.Task[None]:
        """Run what must not end with one fault: that is told, to `told` or to the owner, and `work` begins anew."""
        return self.start(name, self._kept(name, work, told or self._on_error))

    async def _kept(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], told: OnError) -> None:
        clock, failures = asyncio.get_running_loop().time, 0
        while True:
            began = clock()
            try:
                return await work()
            except Exception as error:  # noqa: BLE001 - told, and tried again
                told(name, error)
            failures = 1 if clock() - began >= WELL_S else failures + 1
            await asyncio.sleep(pause_s(failures))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._on_error(task.get_name(), error)

    @property
    def names(self) -> list[str]:
        """What is running now."""
        return sorted(task.get_name() for task in self._tasks)

    async def close(self, timeout_s: float = 5.0) -> list[str]:
        """Cancel everything and wait; returns the names of tasks that did not end in time."""
        self._closed = True
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if not tasks:
            return []
        _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        return sorted(task.get_name() for task in pending)


def pause_s(failures: int) -> float:
    """How long to wait before what failed so many times in a row is tried again."""
    return min(AGAIN_MAX_S, AGAIN_S * 2.0 ** min(failures - 1, 30))


async def in_a_thread_of_its_own(work: Callable[[], T]) -> T:
    """Run blocking work on a thread that ends with it.

    Pooled threads stay, and with them what native libraries keep for each thread: an engine's team of
    workers that nobody uses any more makes those of the next one sleep at every step.
    """
    once = ThreadPoolExecutor(1, thread_name_prefix="once")
    try:
        return await asyncio.get_running_loop().run_in_executor(once, work)
    finally:
        once.shutdown(wait=False)


def soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Call on the loop from another thread; a loop that is closed already has no use for it."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *args)


async def heard(news: asyncio.Event, at_most_s: float) -> bool:
    """Whether something was told before so many seconds were over."""
    try:
        await asyncio.wait_for(news.wait(), at_most_s)
    except TimeoutError:
        return False
    return True


async def every(interval_s: float, tick: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Call `tick` again and again with `interval_s` between the calls."""
    while True:
        await asyncio.sleep(interval_s)
        await tick()
