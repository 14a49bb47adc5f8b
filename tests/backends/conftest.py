"""Fixtures for backends: fake servers that stop by themselves, and waits with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.backends.fakes.server import Farm


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    """Starts fake servers; stops them at the end of the test."""
    farm = Farm()
    yield farm
    await farm.close()


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - any condition, of code that knows nothing of the test
            await asyncio.sleep(0.001)
