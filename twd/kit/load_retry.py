"""Loads that fail are tried again: files appear, copies get done, memory becomes free."""

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
"""Trying takes one such part of the time at the most: a load may read many gigabytes before it fails."""


def load_pause_s(failures: int, took_s: float) -> float:
    """How long to wait before a load that failed so often, the last time after `took_s`, is tried again."""
    usual = min(USUAL_MOST_S, FIRST_S * 2.0 ** min(failures - 1, 30))
    return min(LONGEST_S, max(usual, PART * took_s))


async def until_loaded(
    find: Callable[[], Awaitable[Callable[[], T]]], failed: Callable[[TwdError, bool], None], clock: Clock
) -> T:
    """What comes of the work that `find` finds, on a thread of its own, however often that fails before.

    `failed` hears of each failure, and whether it says something else than the one before, whatever its figures.
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
