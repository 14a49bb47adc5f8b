"""Answers that resemble earlier ones come in fewer passes, and are the same."""

import pytest

from tests.speculator.fakes import Driver, FakePipeline, FakeTarget, job, make_core, text_of
from twd.speculator.core.session import RECALL
from twd.wire.job import JobFinished, JobStats, Speculation

PROMPT = [3, 4, 5, 6]
COUNT = 60
TRUE = text_of(PROMPT, COUNT)


def asked_twice(
    first: Speculation, second: Speculation, target: FakeTarget | None = None, recall_tokens: int = 1000
) -> list[JobStats]:
    """The same question two times: what each answer cost. The fake's answers depend on their last tokens alone."""
    used = target or FakeTarget()
    driver = Driver(make_core(used, ngram=False, recall_tokens=recall_tokens), used)
    for name, speculation in (("one", first), ("two", second)):
        driver.submit(job(name, max_tokens=COUNT, speculation=speculation), PROMPT)
        driver.run()
        assert driver.tokens(name) == TRUE
    return [event.stats for event in driver.told if isinstance(event, JobFinished)]


@pytest.mark.parametrize("pipeline", [False, True])
def test_what_was_said_before_is_said_again_in_few_passes(pipeline: bool) -> None:
    target = FakePipeline(in_flight=4) if pipeline else FakeTarget()
    first, second = asked_twice(Speculation(), Speculation(), target)
    assert first.checked == 0
    assert [share.drafter for share in second.drafters] == [RECALL]
    assert second.passes < first.passes / 2


NOT = Speculation(recall=False)
OFF = Speculation(enabled=False)


@pytest.mark.parametrize(("first", "second"), [(NOT, Speculation()), (Speculation(), NOT), (OFF, Speculation())])
def test_who_does_not_want_it_neither_takes_nor_gives(first: Speculation, second: Speculation) -> None:
    assert [stats.checked for stats in asked_twice(first, second)] == [0, 0]


def test_without_room_nothing_is_remembered() -> None:
    assert [stats.checked for stats in asked_twice(Speculation(), Speculation(), recall_tokens=0)] == [0, 0]
