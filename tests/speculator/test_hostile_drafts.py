"""Guesses that make no sense cost time and nothing else."""

from collections.abc import Sequence

import pytest

from tests.speculator.fakes import END, VOCAB, Driver, FakeTarget, job, make_core, opening, text_of, truth
from twd.decoding.window import Window, check
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.job import JobFinished, Speculation
from twd.wire.prefix import prefix_hash

PROMPT = [5, 6, 7]
LIAR = InstanceId("liar")


class StrictTarget(FakeTarget):
    """Refuses a window as the engine does."""

    def submit(self, windows: Sequence[Window]) -> None:
        for window in windows:
            check(window, vocabulary=VOCAB, ctx_size=self.ctx_size, trees=self.trees)
        super().submit(windows)


@pytest.mark.parametrize(
    "lie",
    [
        [VOCAB],
        [2**31 - 1] * 256,
        [END, END, END],
        list(range(VOCAB)) * 5,
    ],
    ids=["no such token", "far beyond", "after the end", "too long"],
)
@pytest.mark.parametrize("true", [0, 3])
def test_a_lie_changes_nothing(lie: list[int], true: int) -> None:
    target = StrictTarget()
    core = make_core(target)
    core.attach(AttachedDrafter(LIAR, NodeId("n"), beside=False), 0.0)

    def between(driver: Driver) -> None:
        for session in driver.core.sessions.values():
            history = list(session.tokens)
            for _ in range(true):
                history.append(truth(history))
            told = history[len(session.tokens) :] + lie
            draft = DraftProposed(
                session=SessionId("s-j"),
                drafter=LIAR,
                at=len(session.tokens),
                prefix=prefix_hash(session.tokens),
                tokens=told[:256],
                confidence=[1.0] * 300,
                draft_ms=1e300,
            )
            driver.core.draft(draft, draft.tokens, driver.now)

    driver = Driver(core, target, between=between)
    driver.core.submit(job("j"), opening("j", PROMPT), 0.0)
    driver.run()
    assert driver.tokens("j") == text_of(PROMPT, 40)
    assert any(isinstance(event, JobFinished) for event in driver.told)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("beside", [True, False])
def test_a_pace_that_was_made_up_does_not_hold_the_target_up(window: int, beside: bool) -> None:
    target = StrictTarget()
    core = make_core(target)
    core.attach(AttachedDrafter(LIAR, NodeId("n"), beside=beside, token_ms=1e12), 0.0)

    def between(driver: Driver) -> None:
        for session in driver.core.sessions.values():
            place, prefix = len(session.tokens), prefix_hash(session.tokens)
            driver.core.draft(
                DraftProposed(session=session.id, drafter=LIAR, at=place, prefix=prefix, tokens=[2], draft_ms=1e300),
                [2],
                driver.now,
            )

    driver = Driver(core, target, between=between)
    driver.core.submit(job("j", speculation=Speculation(window=window)), opening("j", PROMPT), 0.0)
    driver.run(limit=100_000)
    assert driver.tokens("j") == text_of(PROMPT, 40)
    assert driver.now < 40 * (2.5 if window else 0.1)
