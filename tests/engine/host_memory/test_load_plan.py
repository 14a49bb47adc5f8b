"""When a file is mapped, read ahead, and forgotten by the system."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.engine.host_memory.load_plan import MemoryPlan, ram_plan

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "reclaim", "mmap", "mapped", "prewarm", "drop"),
    [
        (4, "auto", "auto", True, False, False),
        (6, "auto", "auto", False, False, True),
        (9, "auto", "auto", False, False, True),
        (9, "off", "auto", True, True, False),
        (7, "off", "auto", True, False, False),
        (1, "on", "auto", False, False, True),
        (9, "on", "on", True, True, True),
        (9, "off", "off", False, False, False),
    ],
)
def test_the_table(size: int, reclaim: str, mmap: str, mapped: bool, prewarm: bool, drop: bool) -> None:
    assert ram_plan(size * GIB, 10 * GIB, reclaim=reclaim, mmap=mmap) == MemoryPlan(mapped, prewarm, drop)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.sampled_from(["off", "on", "auto"]))
def test_nothing_is_read_ahead_that_is_not_mapped(size: int, available: int, reclaim: str) -> None:
    plan = ram_plan(size, available, reclaim=reclaim)
    assert plan.mapped != plan.drop
    assert not plan.prewarm or plan.mapped
    assert not ram_plan(size, available, reclaim=reclaim, prewarm=False).prewarm
    assert plan.words()
