"""Fixtures for backends: fake servers that stop by themselves, and waits with a deadline."""

from collections.abc import AsyncIterator

import pytest

from tests.backends.fakes.server import Farm


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    """Starts fake servers; stops them at the end of the test."""
    farm = Farm()
    yield farm
    await farm.close()
