"""Named background tasks with an owner: it ends them, and it is told when one fails."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 60.0
WELL_S: Final = 120.0
"""Work that ran for at least this many seconds before it failed resets the count of failures in a row."""

OnError = Callable[[str, BaseException], None]


class TaskGroup:
    """The tasks of one owner. An exception that ends a task is passed to `on_error`."""

    def __init__(self, owner: str, on_error: OnError) -> None:
        self._owner = owner
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as a background task of this owner, and return the task."""
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
        """Run `work` and start it again after each exception, which is passed to `told`, or else to the owner."""
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
        """The names of the tasks that run now, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    async def close(self, timeout_s: float = 5.0) -> list[str]:
        """Cancel all tasks and wait for them; returns the names of those that did not end within `timeout_s`."""
        self._closed = True
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if not tasks:
            return []
        _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        return sorted(task.get_name() for task in pending)


_unowned: set[asyncio.Task[Any]] = set()


def start_unowned(name: str, work: Coroutine[Any, Any, Any]) -> None:
    """Run `work` as a task that no owner can cancel, as for the end of the owner itself."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _unowned.add(task)  # the event loop alone would not keep it alive
    task.add_done_callback(_unowned.discard)


def pause_s(failures: int) -> float:
    """Return the seconds to wait before the next try after so many failures in a row."""
    return min(AGAIN_MAX_S, AGAIN_S * 2.0 ** min(failures - 1, 30))


async def in_a_thread_of_its_own(work: Callable[[], T]) -> T:
    """Run blocking work on a new thread that ends with it, and return its result.

    Pooled threads stay alive, and with them what native libraries keep for each thread. An unused OpenMP team of an old
    engine would slow down each step of the next engine.
    """
    once = ThreadPoolExecutor(1, thread_name_prefix="once")
    try:
        return await asyncio.get_running_loop().run_in_executor(once, work)
    finally:
        once.shutdown(wait=False)


def soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Call a function on the event loop from another thread; does nothing if the loop is closed."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *args)


async def heard(news: asyncio.Event, at_most_s: float) -> bool:
    """Wait for the event; returns True if it was set within `at_most_s` seconds."""
    try:
        async with asyncio.timeout(
            at_most_s
        ):  # `wait_for` of Python 3.11 loses a cancellation if the event comes with it
            await news.wait()
    except TimeoutError:
        return False
    return True


async def cancel(task: asyncio.Task[None], at_most_s: float) -> None:
    """Cancel a task, and wait for its end, at most `at_most_s` seconds."""
    task.cancel()
    await asyncio.wait({task}, timeout=at_most_s)


async def every(interval_s: float, tick: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Call `tick` for ever, with a pause of `interval_s` seconds before each call."""
    while True:
        await asyncio.sleep(interval_s)
        await tick()
