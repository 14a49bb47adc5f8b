"""A drafter's end, whatever its engine's thread does."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.backends.listener import ground
from twd.bus.memory_bus import MemoryBroker
from twd.drafter.service import Drafter
from twd.wire.base import ModelId


@pytest.mark.parametrize("ends", [True, False])
async def test_memory_that_a_thread_may_still_use_is_not_given_back(ends: bool) -> None:
    closed: list[bool] = []
    drafter: Any = Drafter(ground(MemoryBroker()), ModelId("m"), lambda progress: pytest.fail("nothing is loaded here"))
    drafter._runner = SimpleNamespace(stop=lambda: ends)
    drafter._loaded = SimpleNamespace(close=lambda: closed.append(True))
    await drafter.teardown()
    assert bool(closed) is ends
