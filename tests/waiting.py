"""Waiting for the outside world, with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psutil

LOOK_S = 0.02
LOOK_OFTEN_S = 0.002


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Return when the condition holds; fail with `what` when it does not in time."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(LOOK_S)


async def until(condition: Callable[[], object], what: str = "what is sure to come", timeout_s: float = 30.0) -> None:
    """The same, for a loop that has other things to do; it looks often, for what passes quickly."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(LOOK_OFTEN_S)


async def until_it_answers(ask: Callable[[], Awaitable[object]], what: str, timeout_s: float = 60.0) -> None:
    """The same where the condition must be asked for elsewhere, and nothing tells when it holds."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            while not await ask():  # noqa: ASYNC110 - nothing tells when it holds
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


def alive(pid: int) -> bool:
    """Whether a process runs: one that waits for its parent to notice its end does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
