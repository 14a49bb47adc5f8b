"""A draft engine that hangs takes no memory for what it cannot hear; when it goes on, it is told all of it anew."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.drafter.cores import opened
from tests.speculator.fakes import FakeTarget
from twd.decoding.turns import WaitForPost
from twd.decoding.window import Logits
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftRules, Guess
from twd.drafter.native import judge
from twd.drafter.runner import INBOX_MAX, DraftRunner
from twd.wire.base import InstanceId


def test_what_a_hung_engine_cannot_hear_is_told_anew() -> None:
    told: list[str] = []
    runner = DraftRunner(
        DrafterCore(InstanceId("d"), slots=1, ctx_size=64),
        FakeTarget(),
        lambda logits, token, with_other: Guess(token, 1.0),
        deliver=lambda proposals: None,
        failed=lambda error: None,
        lost=lambda: told.append("lost"),
    )
    heard: list[int] = []
    for number in range(INBOX_MAX + 10):
        runner.post(lambda core, number=number: heard.append(number))  # type: ignore[misc]
    turns = runner.turns()
    assert [next(turns) for _ in range(2)] == [WaitForPost()] * 2
    assert heard == list(range(INBOX_MAX))
    assert told == ["lost"], "once is enough"
    runner.post(lambda core: heard.append(-1))
    next(turns)
    assert heard[-1] == -1


class Narrow:
    """A picker that had but two tokens to choose from."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        return 2

    def conformed(self, logits: Logits) -> Logits:
        return np.where(np.isin(np.arange(len(logits)), (2, 3)), logits, -np.inf).astype(np.float32)


def test_a_guess_is_as_sure_as_it_is_among_what_could_be_chosen() -> None:
    taken: list[Any] = []

    class Target(FakeTarget):
        def open(self, *given: Any) -> tuple[int, int]:
            taken.append(given)
            return super().open(*given)

    core = DrafterCore(InstanceId("d"), slots=1, ctx_size=64)
    runner = DraftRunner(core, Target(), judge, deliver=lambda told: None, failed=lambda error: None, lost=lambda: None)
    runner.post(lambda core: core.open(opened([5]), DraftRules(Narrow()), beside=False))
    next(runner.turns())
    ((_, _, report),) = taken
    said = report(np.array([9.0, 9.0, 1.0, 1.0], dtype=np.float32), 2)
    assert (round(said.logprob, 3), said.top[0].token, round(said.top[0].logprob, 3)) == (0.5, 3, 0.5)
