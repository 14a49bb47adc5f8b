"""Tries a failed load again: missing files may appear, and memory may become free."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from twd.kit.clock import Clock
from twd.kit.tasks import in_a_thread_of_its_own
from twd.kit.wording import gist
from twd.wire.failures import TwdError

T = TypeVar("T")

FIRST_S: Final = 2.0
USUAL_MOST_S: Final = 30.0
LONGEST_S: Final = 600.0
PART: Final = 20
"""The pause is at least this many times the duration of the failed load, which may have read many gigabytes."""


def load_pause_s(failures: int, took_s: float) -> float:
    """Return the seconds to wait after so many failed loads in a row; the last one took `took_s` seconds."""
    usual = min(USUAL_MOST_S, FIRST_S * 2.0 ** min(failures - 1, 30))
    return min(LONGEST_S, max(usual, PART * took_s))


async def until_loaded(
    find: Callable[[], Awaitable[Callable[[], T]]], failed: Callable[[TwdError, bool], None], clock: Clock
) -> T:
    """Call `find`, run the function that it returns on a thread, and return the result; repeat until that works.

    `failed` is called with each error, and whether its text, without its numbers, differs from the one before.
    """
    failures, told = 0, ""
    while True:
        began = clock.now()
        try:
            work = await find()
            began = clock.now()
            return await in_a_thread_of_its_own(work)
        except TwdError as error:
            now = gist(f"{error.code} {error}")
            failed(error, now != told)
            told = now
        failures += 1
        await asyncio.sleep(load_pause_s(failures, clock.now() - began))
