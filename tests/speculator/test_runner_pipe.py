"""The engine's thread over a pipeline: it sends without waiting, wakes for what comes, and rests otherwise."""

import queue
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.speculator.fakes import FakePipeline, job, make_core, opening, text_of
from tests.waiting import wait_until
from twd.decoding.cost import CostCurve
from twd.decoding.window import Report, Sampler, VerifyResult, Window
from twd.kit.effects import Effect, Publish
from twd.speculator.runner import Runner
from twd.wire.base import Event
from twd.wire.job import JobFailed, JobFinished, JobStarted, TokensAccepted
from twd.wire.model import CostPoint

WAIT_S = 30.0


class ThreadedPipeline(FakePipeline):
    """Passes come out one by one on another thread; now and then the pipe is lost."""

    def __init__(self, seed: int, losses: float) -> None:
        super().__init__(n_slots=3, out=0)
        self._guard = threading.Lock()
        self._dice = random.Random(seed)
        self._losses = losses
        self._sent: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.turns = 0
        self.thread = threading.Thread(target=self._move, daemon=True)
        self.thread.start()

    def _move(self) -> None:
        while self._sent.get():
            threading.Event().wait(self._dice.random() * 0.002)
            with self._guard:
                if self._dice.random() < self._losses:
                    self.lose()
                self.out += 1
            self.wake()

    def generation(self) -> int:
        self.turns += 1
        with self._guard:
            return super().generation()

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        with self._guard:
            return super().open(tokens, sampler, report)

    def submit(self, windows: Sequence[Window]) -> None:
        with self._guard:
            known = [window for window in windows if window.slot in self.samplers]  # the pipe may be lost meanwhile
            super().submit(known)
        self._sent.put(True)

    def collect(self) -> list[VerifyResult]:
        with self._guard:
            return super().collect()

    def shutdown(self) -> None:
        self._sent.put(False)


class Desk:
    """Hears what the runner tells."""

    def __init__(self) -> None:
        self.texts: dict[str, list[int]] = {}
        self.ends: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.failures: list[BaseException] = []

    def deliver(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Publish)
            match effect.event:
                case TokensAccepted() as event:
                    text = self.texts.setdefault(event.job, [])
                    assert event.index == len(text), "a token was told twice, or one is missing"
                    text += event.tokens
                case JobFinished() | JobFailed() as event:
                    self.ends.put(event)


@contextmanager
def running(target: ThreadedPipeline) -> Iterator[tuple[Runner, Desk]]:
    desk = Desk()
    cost = CostCurve([CostPoint(width=1, ms=1.0)])
    runner = Runner(make_core(target), target, cost, desk.deliver, desk.failures.append)
    runner.start()
    try:
        yield runner, desk
    finally:
        assert runner.stop()
        target.thread.join(WAIT_S)
        assert not desk.failures


@pytest.mark.parametrize("losses", [0.0, 0.02])
def test_every_text_is_whole_whatever_is_lost(losses: float) -> None:
    prompts = [[2 + (seed * 7 + i) % 40 for i in range(1 + 9 * seed)] for seed in range(6)]
    with running(ThreadedPipeline(5, losses)) as (runner, desk):
        for number, prompt in enumerate(prompts):
            asked, opened = job(f"j{number}"), opening(f"j{number}", prompt)
            runner.post(lambda core, now, asked=asked, opened=opened: core.submit(asked, opened, now))  # type: ignore[misc]
        for _ in prompts:
            assert isinstance(desk.ends.get(timeout=WAIT_S), JobFinished)
    assert [desk.texts[f"j{number}"] for number in range(len(prompts))] == [text_of(prompt, 40) for prompt in prompts]


def test_a_pipe_with_nothing_to_do_lets_the_thread_rest() -> None:
    target = ThreadedPipeline(1, 0.0)
    with running(target) as (runner, desk):
        runner.post(lambda core, now: core.submit(job("j"), opening("j", [5, 6, 7]), now))
        desk.ends.get(timeout=WAIT_S)
        passed = threading.Event()
        runner.post(lambda core, now: passed.set())
        assert passed.wait(WAIT_S)
        before = target.turns
        assert not threading.Event().wait(0.3)
        assert target.turns <= before + 3


def test_a_stop_in_the_middle_of_a_turn_is_heard() -> None:
    target = ThreadedPipeline(1, 0.0)
    stopping: list[threading.Thread] = []
    desk = Desk()

    def deliver(effects: list[Effect]) -> None:
        desk.deliver(effects)
        if not desk.ends.empty() and not stopping:
            stopping.append(threading.Thread(target=runner.stop, daemon=True))
            stopping[0].start()
            wait_until(lambda: runner._stopping and not runner._inbox.empty(), "the stop is posted")

    runner = Runner(make_core(target), target, CostCurve([CostPoint(width=1, ms=1.0)]), deliver, desk.failures.append)
    runner.start()
    runner.post(lambda core, now: core.submit(job("j"), opening("j", [5, 6, 7]), now))
    desk.ends.get(timeout=WAIT_S)
    assert runner.stop(WAIT_S)
    assert not desk.failures


def test_an_answer_that_comes_while_another_is_told_is_collected() -> None:
    target = FakePipeline(n_slots=2, out=0)
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()

    def deliver(effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Publish)
            if isinstance(effect.event, JobStarted):
                begun.put(effect.event.job)
            if isinstance(effect.event, TokensAccepted):
                told.put(effect.event.job)
                if told.qsize() == 1:
                    target.out += 1
                    target.wake()

    runner = Runner(make_core(target), target, CostCurve([CostPoint(width=1, ms=1.0)]), deliver, lambda error: None)
    runner.start()
    for name in ("a", "b"):
        asked, opened = job(name), opening(name, [5, 6, 7])
        runner.post(lambda core, now, asked=asked, opened=opened: core.submit(asked, opened, now))  # type: ignore[misc]
    try:
        for _ in range(2):
            begun.get(timeout=WAIT_S)
        wait_until(lambda: len(target.passes) == 2, "both prompts are under way")
        target.out += 1
        target.wake()
        wait_until(lambda: told.qsize() == 2, "both answers are told")
    finally:
        assert runner.stop()
