"""Long prompts are prepared one at a time and short ones beside them; who is dropped or late is not prepared at all."""

import asyncio
import threading
from itertools import pairwise
from typing import Any, cast

import pytest

from tests.speculator.fakes import job, opening
from tests.waiting import until
from twd.speculator.admission.request_preprocessor import QUICK_CHARACTERS
from twd.speculator.admission.tokenize_queue import LONG_CHARACTERS, QueueLane, TokenizeQueue
from twd.speculator.core.session import PreparedRequest
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.base import JobId, SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import ChatMessage, JobSubmitted, Prompt

SHORT, LONG = 10_000, LONG_CHARACTERS + 1


class Slow:
    """A model whose prompts are ready when the test says so."""

    local = True

    def __init__(self) -> None:
        self.began: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def prepare(self, one: JobSubmitted, session: SessionId) -> PreparedRequest:
        self.began.append(one.job)
        assert self.gate(one.job).wait(5)
        return opening(one.job, [1])

    def gate(self, name: str) -> threading.Event:
        return self.gates.setdefault(name, threading.Event())


class Bench:
    """A preparation, its clock, and what is on its way through it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.model = Slow()
        self.preparation = TokenizeQueue(cast(LoadedModel, self.model), lambda: self.now)
        self.jobs: dict[str, JobSubmitted] = {}
        self.tasks: dict[str, asyncio.Task[PreparedRequest | None]] = {}

    async def put(self, name: str, size: int, **fields: Any) -> None:
        said = "x" * size
        quick = size <= QUICK_CHARACTERS
        prompt = Prompt(text=said) if quick else Prompt(messages=[ChatMessage(role="user", content=said)])
        self.jobs[name] = one = job(name, prompt=prompt, **fields)
        work = self.preparation.prepared(one, SessionId(name), self.now)
        self.tasks[name] = asyncio.ensure_future(work)  # noqa: TID251 - a hand of the test
        await asyncio.sleep(0)

    async def end(self, name: str) -> PreparedRequest | None:
        self.model.gate(name).set()
        return await asyncio.wait_for(self.tasks[name], 5)

    async def began(self, *names: str) -> None:
        await until(lambda: self.model.began == list(names))


async def test_one_long_and_one_short_at_a_time_in_their_order() -> None:
    bench = Bench()
    for name, size in (("L1", LONG), ("L2", LONG), ("L3", LONG)):
        await bench.put(name, size)
    await bench.began("L1")
    await bench.put("S1", SHORT)
    await bench.put("S2", SHORT)
    await bench.began("L1", "S1")
    assert await bench.end("S1") is not None
    await bench.began("L1", "S1", "S2")
    assert await bench.end("L1") is not None
    await bench.began("L1", "S1", "S2", "L2")
    for name in ("S2", "L2", "L3"):
        assert await bench.end(name) is not None


async def test_a_quick_prompt_waits_for_nobody() -> None:
    bench = Bench()
    await bench.put("L1", LONG)
    await bench.put("S1", SHORT)
    bench.model.gate("q").set()
    await bench.put("q", 5)
    assert bench.tasks["q"].done()
    await bench.end("S1")
    await bench.end("L1")


async def test_many_quick_prompts_leave_the_loop_its_turns() -> None:
    bench = Bench()
    names = [f"q{at}" for at in range(20)]
    for name in names:
        bench.model.gate(name).set()
    turns: list[int] = []
    works = [bench.preparation.prepared(job(name), SessionId(name), 0.0) for name in names]
    tasks = asyncio.gather(*works)
    while not tasks.done():
        await asyncio.sleep(0)
        turns.append(len(bench.model.began))
    assert bench.model.began == names
    assert max(after - before for before, after in pairwise([0, *turns])) == 1


async def test_who_is_dropped_leaves_the_line_at_once() -> None:
    bench = Bench()
    for name in ("L1", "L2", "L3"):
        await bench.put(name, LONG)
    bench.preparation.drop(bench.jobs["L2"])
    assert await asyncio.wait_for(bench.tasks["L2"], 5) is None
    bench.preparation.drop(bench.jobs["L1"])  # under way: it ends, and whoever asked looks whether it is wanted
    assert await bench.end("L1") is not None
    assert await bench.end("L3") is not None
    assert bench.model.began == ["L1", "L3"]


async def test_who_waited_past_the_deadline_is_not_prepared() -> None:
    bench = Bench()
    await bench.put("L1", LONG)
    await bench.put("L2", LONG, deadline_ms=2000)
    bench.now = 2.0
    await bench.end("L1")
    with pytest.raises(TwdError, match="2 s") as late:
        await bench.end("L2")
    assert late.value.code is FailureCode.DEADLINE
    assert bench.model.began == ["L1"]


async def test_a_prompt_that_is_refused_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def refuse(one: JobSubmitted, session: SessionId) -> PreparedRequest:
        raise TwdError(FailureCode.CONTEXT_OVERFLOW, "too long")

    with monkeypatch.context() as patched:
        patched.setattr(bench.model, "prepare", refuse)
        await bench.put("L1", LONG)
        with pytest.raises(TwdError):
            await bench.end("L1")
    await bench.put("L2", LONG)
    assert await bench.end("L2") is not None


async def test_closing_waits_for_the_thread_and_lets_the_others_go() -> None:
    bench = Bench()
    await bench.put("L1", LONG)
    await bench.put("L2", LONG)
    await bench.began("L1")
    closing = asyncio.ensure_future(bench.preparation.close())  # noqa: TID251 - a hand of the test
    assert await asyncio.wait_for(bench.tasks["L2"], 5) is None
    assert not closing.done()
    await bench.end("L1")
    await asyncio.wait_for(closing, 5)
    assert bench.model.began == ["L1"]


async def test_who_is_called_off_as_its_turn_comes_passes_it_on() -> None:
    lane = QueueLane(1)
    assert await lane.enter((JobId("first"), 1))
    waiting = asyncio.ensure_future(lane.enter((JobId("second"), 1)))  # noqa: TID251 - a hand of the test
    await asyncio.sleep(0)
    lane._next()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(lane.enter((JobId("third"), 1)), 5)
