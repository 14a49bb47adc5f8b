"""Guesses that make no sense cost time and nothing else."""

from collections.abc import Sequence

import pytest

from tests.speculator.fakes import END, VOCAB, Driver, FakeTarget, job, make_core, opening, text_of, truth
from twd.engine.window import Window, check
from twd.speculator.links import Drafter
from twd.wire.base import InstanceId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.job import JobFinished
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
    core.attach(Drafter(LIAR, NodeId("n"), beside=False), 0.0)

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
