"""Asks several machines for the same: the next one when the last one fails or is late. The first answer counts."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from twd.kit.tasks import TaskGroup
from twd.wire.failures import FailureCode, TwdError

LATE_S: Final = 1.0
CLOSING_S: Final = 1.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AskedMachine(Generic[T]):
    """One machine to ask. After `late_s` seconds without its answer, the next one is asked, too."""

    ask: Callable[[], Coroutine[Any, Any, T]]
    late_s: float = LATE_S


async def first_answer(machines: Iterable[AskedMachine[T]]) -> T:
    """Return the first answer; raises TwdError with the causes if none came."""
    problems: list[str] = []
    group = TaskGroup("ask", lambda name, error: None)  # errors are read from the tasks
    running: set[asyncio.Task[T]] = set()
    left = list(machines)
    try:
        while left or running:
            late_s = None
            if left:
                asked = left.pop(0)
                running.add(group.start("machine", asked.ask()))
                late_s = asked.late_s if left else None
            done, running = await asyncio.wait(running, timeout=late_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not isinstance(task.exception(), TwdError):
                    return task.result()
                problems.append(str(task.exception()))
    finally:
        await group.close(CLOSING_S)
    raise TwdError(FailureCode.NO_SOURCE, "; ".join(problems[:4]))
