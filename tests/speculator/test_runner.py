"""The engine's thread over a target that computes one pass at a time."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tests.speculator.fakes import END, VOCAB, FakeTarget, job, make_core, opening, text_of, truth
from twd.decoding.cost import CostCurve
from twd.decoding.window import VerifyResult, Window
from twd.kit.effects import Effect, Publish
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.runner import Runner
from twd.wire.base import Event, InstanceId, JobId
from twd.wire.draft import DraftProposed
from twd.wire.failures import FailureCode
from twd.wire.job import JobFailed, JobFinished, TokensAccepted
from twd.wire.model import CostPoint
from twd.wire.prefix import prefix_hash

PASS_S, AFTER_S = 0.020, 0.002
DRAFTER = InstanceId("d")


@dataclass
class Slow(FakeTarget):
    """Something happens while it computes, and time goes by."""

    meanwhile: Callable[[], None] = lambda: None
    now: list[float] = field(default_factory=lambda: [0.0])

    def collect(self) -> list[VerifyResult]:
        self.now[0] += AFTER_S
        self.meanwhile()
        self.now[0] += PASS_S - AFTER_S
        return super().collect()


@dataclass
class Closing(FakeTarget):
    """Knows whether it was shut down."""

    closed: bool = False

    def shutdown(self) -> None:
        self.closed = True


def played() -> tuple[Slow, SpeculatorCore, Runner]:
    """A runner whose time is the target's, with one job in hand."""
    target = Slow()
    core = make_core(target)
    cost = CostCurve([CostPoint(width=1, ms=1000 * PASS_S)])
    runner = Runner(core, target, cost, lambda effects: None, lambda error: None, clock=lambda: target.now[0])
    runner.post(lambda core, now: core.submit(job("j", max_tokens=40), opening("j", [5, 6, 7]), now))
    return target, core, runner


def test_guesses_that_come_during_a_pass_are_judged_by_it() -> None:
    target, core, runner = played()

    def lie() -> None:
        tokens = list(core.by_job[JobId("j")].tokens)
        wrong = next(token for token in range(2, VOCAB) if token not in (truth(tokens), END))
        event = DraftProposed(
            session=core.by_job[JobId("j")].id,
            drafter=DRAFTER,
            at=len(tokens),
            prefix=prefix_hash(tokens),
            tokens=[wrong],
            confidence=[1.0],
        )
        runner.post(lambda core, now: core.draft(event, event.tokens, now))

    target.meanwhile = lie
    for _ in islice(runner.turns(), 10):
        pass
    record = core.drafter_pool.calibrations[DRAFTER]
    assert record.weight > 5
    assert record.agreement == 0
    assert core.by_job[JobId("j")].tree.stale == 0


def test_what_was_posted_counts_from_when_it_was_posted() -> None:
    target, _, runner = played()
    posted: list[tuple[float, float]] = []

    def post() -> None:
        at = target.now[0]
        runner.post(lambda core, now: posted.append((at, now)))

    target.meanwhile = post
    for _ in islice(runner.turns(), 4):
        pass
    assert len(posted) >= 2
    assert all(at == now for at, now in posted)


@dataclass
class Late(Slow):
    """The answers of one slot come only when they are let out."""

    held: int = 0
    asked: int = 0

    def submit(self, windows: Sequence[Window]) -> None:
        assert not {window.slot for window in windows} & {window.slot for window in self.pending}, "asked twice"
        self.asked += sum(window.slot == self.held for window in windows)
        super().submit(windows)

    def collect(self) -> list[VerifyResult]:
        late = deque(window for window in self.pending if window.slot == self.held)
        self.pending = deque(window for window in self.pending if window.slot != self.held)
        verdicts = super().collect()
        self.pending = late
        return verdicts


@dataclass
class Played:
    """A runner over such a target, turn by turn, and what it told."""

    target: Late = field(default_factory=Late)
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cost, self.shared = (CostCurve([CostPoint(width=1, ms=1000 * PASS_S)]) for _ in range(2))
        self.core = make_core(self.target, shared_cost=self.shared.ms)
        self.runner = Runner(
            self.core,
            self.target,
            self.cost,
            self.hear,
            lambda error: None,
            clock=lambda: self.target.now[0],
            shared_cost=self.shared,
        )
        self.turns = self.runner.turns()

    def hear(self, effects: list[Effect]) -> None:
        self.told += [effect.event for effect in effects if isinstance(effect, Publish)]

    def submit(self, name: str, prompt: list[int], **fields: object) -> None:
        self.runner.post(lambda core, now: core.submit(job(name, **fields), opening(name, prompt), now))

    def until(self, done: Callable[[], bool]) -> None:
        for turn, _ in enumerate(self.turns):
            if done():
                return
            assert turn < 500

    def ends(self, name: str) -> list[JobFinished | JobFailed]:
        return [event for event in self.told if isinstance(event, JobFinished | JobFailed) and event.job == name]

    def tokens(self, name: str) -> list[int]:
        told = [event for event in self.told if isinstance(event, TokensAccepted) and event.job == name]
        return [token for event in told for token in event.tokens]


def test_the_others_go_on_while_one_answer_is_late() -> None:
    played = Played()
    played.submit("late", [5, 6, 7])
    played.submit("other", [8, 9])
    played.until(lambda: bool(played.ends("other")))
    assert played.tokens("other") == text_of([8, 9], 40)
    assert not played.ends("late")
    assert played.target.asked == 1
    played.target.held = -1
    played.until(lambda: bool(played.ends("late")))
    assert played.tokens("late") == text_of([5, 6, 7], 40)


def test_a_job_whose_answer_is_late_is_cancelled_and_meets_its_deadline() -> None:
    played = Played()
    played.submit("cancelled", [5, 6, 7])
    played.until(lambda: played.target.asked == 1)
    played.runner.post(lambda core, now: core.cancel(job("cancelled").job, now))
    played.until(lambda: bool(played.ends("cancelled")))
    played.target.pending.clear()
    played.submit("overdue", [8, 9], deadline_ms=200)
    played.until(lambda: bool(played.ends("overdue")))
    (end,) = played.ends("overdue")
    assert isinstance(end, JobFailed)
    assert end.failure.code is FailureCode.DEADLINE


def test_a_late_answer_tells_what_its_pass_cost() -> None:
    played = Played()
    played.submit("late", [5, 6, 7], max_tokens=1)
    before = played.cost.ms(3)
    played.until(lambda: played.target.now[0] > 10 * PASS_S)
    assert played.cost.ms(3) == before
    played.target.held = -1
    played.until(lambda: bool(played.ends("late")))
    assert played.cost.ms(3) > before


def test_passes_of_several_sessions_are_learned_apart_from_those_of_one() -> None:
    played = Played()
    played.target.held = -1
    played.submit("one", [5, 6, 7])
    played.submit("other", [8, 9])
    before, passes = played.cost.ms(2), played.target.now
    played.target.meanwhile = lambda: passes.__setitem__(0, passes[0] + PASS_S)
    played.until(lambda: bool(played.ends("one")) and bool(played.ends("other")))
    assert played.shared.ms(2) > 1.5 * before
    assert played.cost.ms(2) == before


def test_a_command_that_fails_at_the_end_keeps_no_target_open() -> None:
    target, faults = Closing(), list[BaseException]()
    cost = CostCurve([CostPoint(width=1, ms=1.0)])
    runner = Runner(make_core(target), target, cost, lambda effects: None, faults.append)

    def fail(core: SpeculatorCore, now: float) -> None:
        raise RuntimeError("the last word")

    runner.post(fail)
    runner.stop()
    runner._main()
    assert [str(fault) for fault in faults] == ["the last word"]
    assert target.closed
