"""Sessions with a grammar wait for a thread, one at a time, and are let go of when they end meanwhile."""

import asyncio
import threading

import pytest

from tests.drafter.cores import opened
from tests.speculator.fakes import TruePicker
from tests.waiting import until
from twd.drafter import openings
from twd.drafter.draft import DraftRules
from twd.drafter.openings import WAITING_MAX, PendingSessions
from twd.wire.base import SessionId
from twd.wire.draft import SessionOpened
from twd.wire.failures import FailureCode, TwdError

FOLLOWING = DraftRules(TruePicker())


def begun(made: PendingSessions, name: str) -> "asyncio.Future[DraftRules | None]":
    return following(made, opened([5], name=name))


def following(made: PendingSessions, event: SessionOpened) -> "asyncio.Future[DraftRules | None]":
    opening = made.take(event)
    assert opening is not None
    return asyncio.ensure_future(made.following(opening))  # noqa: TID251 - the test's own


class Slow:
    """Makes nothing ready before it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may = threading.Event()

    def __call__(self, event: SessionOpened) -> DraftRules:
        self.asked.append(event.session)
        assert self.may.wait(30)
        return FOLLOWING


async def test_each_session_once_and_not_too_many() -> None:
    made = PendingSessions(lambda event: FOLLOWING)
    first = begun(made, "a")
    assert made.take(opened([5], name="a")) is None
    assert await first is FOLLOWING
    taken = [made.take(opened([5], name=str(number))) is not None for number in range(WAITING_MAX + 1)]
    assert taken == [True] * WAITING_MAX + [False]


async def test_who_ends_meanwhile_is_not_followed() -> None:
    slow = Slow()
    made = PendingSessions(slow)
    running, waiting = begun(made, "a"), begun(made, "b")
    await until(lambda: slow.asked == ["a"])
    made.drop(SessionId("a"))
    made.drop(SessionId("b"))
    slow.may.set()
    assert (await running, await waiting) == (None, None)
    assert slow.asked == ["a"], "nothing is made for who is gone"


async def test_who_is_told_again_meanwhile_is_opened_as_it_stands_then() -> None:
    slow = Slow()
    made = PendingSessions(slow)
    opening = made.take(opened([5], name="a"))
    assert opening is not None
    task = asyncio.ensure_future(made.following(opening))  # noqa: TID251 - the test's own
    await until(lambda: slow.asked == ["a"])
    assert made.take(opened([5, 6], name="a")) is None
    slow.may.set()
    assert await task is FOLLOWING
    assert opening.event.tokens == [5, 6]


@pytest.mark.parametrize("fails", [False, True])
async def test_who_is_dropped_and_told_anew_is_followed_from_there(fails: bool) -> None:
    slow = Slow()

    def follow(event: SessionOpened) -> DraftRules:
        made_of = slow(event)
        if fails and event.tokens == [5]:
            raise TwdError(FailureCode.BAD_GRAMMAR, "no")
        return made_of

    made = PendingSessions(follow)
    gone = begun(made, "a")
    await until(lambda: slow.asked == ["a"])
    made.drop(SessionId("a"))
    anew = following(made, opened([5, 6], name="a"))
    slow.may.set()
    results = await asyncio.gather(gone, anew, return_exceptions=True)
    assert isinstance(results[0], TwdError) if fails else results[0] is None
    assert results[1] is FOLLOWING


async def test_closing_waits_for_what_is_under_way_and_begins_nothing() -> None:
    slow = Slow()
    made = PendingSessions(slow)
    tasks = [begun(made, name) for name in "ab"]
    await until(lambda: slow.asked == ["a"])
    closing = asyncio.ensure_future(made.close())  # noqa: TID251 - the test's own
    await asyncio.sleep(0)
    assert not closing.done()
    slow.may.set()
    assert await closing
    assert await asyncio.gather(*tasks) == [None, None]
    assert slow.asked == ["a"]


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "CLOSING_S", 0.01)
    slow = Slow()
    made = PendingSessions(slow)
    task = begun(made, "a")
    await until(lambda: slow.asked == ["a"])
    assert not await made.close()
    slow.may.set()
    assert await task is None


async def test_a_grammar_that_cannot_be_told_so_and_the_next_one_is_made() -> None:
    def follow(event: SessionOpened) -> DraftRules:
        if event.session == "a":
            raise TwdError(FailureCode.BAD_GRAMMAR, "no")
        return FOLLOWING

    made = PendingSessions(follow)
    bad, good = (begun(made, name) for name in "ab")
    with pytest.raises(TwdError):
        await bad
    assert await good is FOLLOWING
    assert made.take(opened([5], name="a")) is not None
