"""An event loop whose time is only a number: it never sleeps, it jumps to the next timer.

Code runs on behalf of a `Process`; whatever it schedules belongs to the same process, because
asyncio hands the context on. So a process can be stopped and continued like a real one under
SIGSTOP and SIGCONT, and killed like one under SIGKILL: not one more line of it runs.
"""

import asyncio
import contextvars
import heapq
from asyncio.base_events import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS_MAX = 200_000
TURNS_WITHOUT_TIME_MAX = 5_000


class Deadlock(Exception):
    """Nothing is ready and no timer is set: what is awaited can never come."""


class Livelock(Exception):
    """The loop turns and turns: too often in all, or without time going on."""


class Process:
    """A name for everything that stops, continues and dies together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.parked: list[asyncio.Handle] | None = None
        """What waits to run while the process is stopped; None while it runs."""
        self.context = contextvars.copy_context()
        self.context.run(_process.set, self)

    def __repr__(self) -> str:
        return f"Process({self.name})"


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class VirtualLoop(BaseEventLoop):
    """asyncio without sockets, threads or sleep. Use it with the memory bus only."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, *, turns_max: int = TURNS_MAX) -> None:
        super().__init__()
        self._selector = self
        self._clock_resolution = 1e-6  # sums of floats are not exact; a timer that is nearly due is due
        self._now = 0.0
        self._turns = 0
        self._turns_max = turns_max
        self._idle_turns = 0
        self._held: list[Process] = []
        self._orders: deque[Callable[[], None]] = deque()
        self.errors: list[str] = []
        self.thread_s: Callable[[], float] = lambda: 0.01
        """How long the next piece of work of a thread takes."""
        self._tasks: list[tuple[Process | None, asyncio.Task[Any]]] = []
        self.set_exception_handler(self._note_error)

    # -- what asyncio asks of a loop -----------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        """Called once a turn by asyncio, as a selector would be: instead of sleeping, time jumps."""
        self._count_turn(timeout)
        if self._orders:
            while self._orders:
                self._orders.popleft()()
            timeout = 0.0  # whatever waits is counted anew in the next turn
        if self._held:
            self._park()
        if timeout is None:
            raise Deadlock(f"at {self._now:g} s nothing is ready and no timer is set")
        self._now += timeout
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is nobody to wake: threads are played on the loop itself."""

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        """A thread's work is done in no time, some time later."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the thread
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self.thread_s(), work)
        return future

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        """Like asyncio's, and remembered: at the end of a world none may be left."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        owner = _process.get() if context is None else context.get(_process)
        self._tasks.append((owner, task))
        return task

    def tasks_left(self) -> list[str]:
        """Tasks that are not done and could still go on: those of the dead do not count."""
        return sorted(task.get_name() for owner, task in self._tasks if not task.done() and (not owner or owner.alive))

    def close(self) -> None:
        """Forget everything, without a word about what was killed midway."""
        for _, task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        super().close()

    def _note_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    def _count_turn(self, timeout: float | None) -> None:
        self._turns += 1
        self._idle_turns = 0 if timeout else self._idle_turns + 1
        if self._turns > self._turns_max or self._idle_turns > TURNS_WITHOUT_TIME_MAX:
            raise Livelock(f"{self._turns} turns, the last {self._idle_turns} of them at {self._now:g} s")

    # -- processes -----------------------------------------------------------------------------

    def between_turns(self, order: Callable[[], None]) -> None:
        """Do this when no handle is half done; processes are stopped and killed only then."""
        self._orders.append(order)

    def start(self, process: Process, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine as a process."""
        return self.create_task(work, name=name, context=process.context)

    def stop_process(self, process: Process) -> None:
        """SIGSTOP: from the next turn on nothing of this process runs."""
        if process.alive and process.parked is None:
            process.parked = []
            self._held.append(process)
            self._take_timers(process)

    def continue_process(self, process: Process) -> None:
        """SIGCONT: what became due meanwhile runs now."""
        if process.alive and process.parked is not None:
            self._held.remove(process)
            for handle in process.parked:
                if isinstance(handle, asyncio.TimerHandle):
                    heapq.heappush(self._scheduled, handle)
                else:
                    self._ready.append(handle)
            process.parked = None

    def kill_process(self, process: Process) -> None:
        """SIGKILL: what waits to run never runs."""
        self.stop_process(process)
        process.alive = False

    def _take_timers(self, process: Process) -> None:
        assert process.parked is not None
        mine = [timer for timer in self._scheduled if _owner(timer) is process]
        if mine:
            process.parked += [timer for timer in mine if not timer.cancelled()]
            gone = set(map(id, mine))
            self._scheduled = [timer for timer in self._scheduled if id(timer) not in gone]
            heapq.heapify(self._scheduled)

    def _park(self) -> None:
        """Set aside what stopped processes have ready. Done between turns, when nothing runs."""
        if not self._ready:
            return
        ready = list(self._ready)
        self._ready.clear()
        for handle in ready:
            owner = _owner(handle)
            if owner is None or owner.parked is None:
                self._ready.append(handle)
            elif owner.alive:
                owner.parked.append(handle)


def _owner(handle: asyncio.Handle) -> Process | None:
    return handle._context.get(_process)  # type: ignore[attr-defined, no-any-return]
