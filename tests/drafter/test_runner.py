"""A draft engine that hangs takes no memory for what it cannot hear; when it goes on, it is told all of it anew."""

from tests.speculator.fakes import FakeTarget
from twd.drafter.core import DrafterCore
from twd.drafter.draft import Guess
from twd.drafter.runner import INBOX_MAX, DraftRunner
from twd.engine.turns import Rest
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
    assert [next(turns) for _ in range(2)] == [Rest()] * 2
    assert heard == list(range(INBOX_MAX))
    assert told == ["lost"], "once is enough"
    runner.post(lambda core: heard.append(-1))
    next(turns)
    assert heard[-1] == -1
