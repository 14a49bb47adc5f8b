"""What must not end with one fault: it is told each time, and begun anew after pauses that grow and end."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.kit import tasks
from twd.kit.tasks import AGAIN_MAX_S, AGAIN_S, TaskGroup, heard, pause_s


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


async def test_a_wait_is_cancelled_even_if_its_event_comes_at_the_same_moment() -> None:
    news = asyncio.Event()

    async def wait_for_ever() -> None:
        while True:
            await heard(news, 60.0)
            news.clear()

    group = TaskGroup("test", lambda name, error: None)
    group.start("wait", wait_for_ever())
    for _ in range(3):
        await asyncio.sleep(0)
    news.set()
    await asyncio.sleep(0)
    assert await group.close(1.0) == []
