"""What must not end with one fault: it is told each time, and begun anew after pauses that grow and end."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.kit import tasks
from twd.kit.tasks import AGAIN_MAX_S, AGAIN_S, TaskGroup, pause_s


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(failures: int) -> None:
    assert AGAIN_S <= pause_s(failures) <= pause_s(failures + 1) <= AGAIN_MAX_S


@pytest.mark.parametrize("own", [True, False])
async def test_work_that_is_kept_begins_anew_after_each_fault(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.0)
    told: dict[str, list[str]] = {"owner": [], "own": []}
    group = TaskGroup("test", lambda name, error: told["owner"].append(f"{name}: {error}"))
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise RuntimeError(f"fault {begun}")

    listener = (lambda name, error: told["own"].append(f"{name}: {error}")) if own else None
    await asyncio.wait_for(group.keep("work", work, listener), 5)
    assert told["own" if own else "owner"] == ["work: fault 1", "work: fault 2"]
    assert not told["owner" if own else "own"]
    assert begun == 3
    await group.close()
