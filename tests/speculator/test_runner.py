"""The engine's thread over a target that computes one pass at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from tests.speculator.fakes import END, VOCAB, FakeTarget, job, make_core, opening, truth
from twd.engine.cost import CostCurve
from twd.engine.window import Verdict
from twd.speculator.core import SpeculatorCore
from twd.speculator.runner import Runner
from twd.wire.base import InstanceId
from twd.wire.draft import DraftProposed
from twd.wire.model import CostPoint
from twd.wire.prefix import prefix_hash

PASS_S, AFTER_S = 0.020, 0.002
DRAFTER = InstanceId("d")


@dataclass
class Slow(FakeTarget):
    """Something happens while it computes, and time goes by."""

    meanwhile: Callable[[], None] = lambda: None
    now: list[float] = field(default_factory=lambda: [0.0])

    def collect(self) -> list[Verdict]:
        self.now[0] += AFTER_S
        self.meanwhile()
        self.now[0] += PASS_S - AFTER_S
        return super().collect()


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
        tokens = list(core.by_job["j"].tokens)
        wrong = next(token for token in range(2, VOCAB) if token not in (truth(tokens), END))
        event = DraftProposed(
            session=core.by_job["j"].id,
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
    record = core.crew.calibrations[DRAFTER]
    assert record.weight > 5
    assert record.agreement == 0
    assert core.by_job["j"].tree.stale == 0


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
