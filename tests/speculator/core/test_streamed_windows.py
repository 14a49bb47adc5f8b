"""Experts on disk: unknown drafters are compared before they are checked, and drafts that wait are foreseen."""

from collections.abc import Callable, Sequence

import pytest

from tests.speculator.fakes import VOCAB, Driver, FakeTarget, job, make_core, text_of
from twd.speculator.core.batch_planning import COMPARED
from twd.speculator.core.drafted_experts import ExpertForesight
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.job import JobFinished
from twd.wire.prefix import prefix_hash

PROMPT = [3, 1, 4, 1, 5]
DRAFTED = 8


@pytest.mark.parametrize("good", [True, False], ids=["good", "useless"])
def test_only_drafters_that_were_right_are_checked(good: bool) -> None:
    foreseen: list[list[int]] = []
    target = FakeTarget()
    core = make_core(
        target,
        lambda rows: 10.0 + 5.0 * rows,
        ngram=False,
        max_window=4,
        missing_ms=lambda tokens: [5.0 * (row + 1) for row in range(len(tokens))],
        foresee=lambda tokens: foreseen.append(list(tokens)),
    )
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("far"), beside=False, token_ms=0.1), 0.0)

    def feed(driver: Driver) -> None:
        for session in driver.core.by_id.values():
            tokens: Sequence[int] = text_of(session.tokens, DRAFTED) if good else [VOCAB - 1] * DRAFTED
            event = DraftProposed(
                session=session.id,
                drafter=InstanceId("d"),
                at=len(session.tokens),
                prefix=prefix_hash(session.tokens),
                tokens=list(tokens),
                confidence=[1.0] * DRAFTED,
            )
            driver.core.draft(event, tokens, driver.now)

    driver = Driver(core, target, between=feed)
    driver.submit(job(max_tokens=60), PROMPT)
    driver.run()
    (end,) = [event for event in driver.told if isinstance(event, JobFinished)]
    made = len(driver.tokens("j"))
    if good:
        assert end.stats.passes < made - COMPARED
        assert foreseen, "the end of a draft that is longer than a window waits for the next one"
    else:
        assert end.stats.checked == 0
        assert not foreseen
        assert end.stats.passes >= made


LAYERS = (8, 8)


def chosen_after(token: int) -> list[int]:
    return [token % 8] * 2


TOLD: dict[str, Callable[[int], list[int]]] = {
    "right": chosen_after,
    "wrong": lambda token: chosen_after(token + 3),
    "absurd": lambda _: [8, 30_000],
}


@pytest.mark.parametrize("told", ["right", "wrong", "absurd"])
def test_what_drafters_chose_is_read_ahead_where_it_was_right(told: str) -> None:
    read: list[list[int]] = []
    foresight = ExpertForesight(LAYERS, chosen_after, read.extend)
    target = FakeTarget()
    core = make_core(
        target, lambda rows: 10.0 + 5.0 * rows, ngram=False, foresee=lambda tokens: None, experts=foresight
    )
    core.attach(AttachedDrafter(InstanceId("d"), NodeId("far"), beside=False, token_ms=0.1), 0.0)

    def feed(driver: Driver) -> None:
        for session in driver.core.by_id.values():
            tokens = text_of(session.tokens, DRAFTED)
            before = [session.tokens[-1], *tokens[:-1]]
            event = DraftProposed(
                session=session.id,
                drafter=InstanceId("d"),
                at=len(session.tokens),
                prefix=prefix_hash(session.tokens),
                tokens=tokens,
                confidence=[1.0] * DRAFTED,
                experts=[TOLD[told](token) for token in before][: len(tokens)],
            )
            driver.core.draft(event, tokens, driver.now)

    driver = Driver(core, target, between=feed)
    driver.submit(job(max_tokens=60), PROMPT)
    driver.run()
    assert driver.tokens("j") == text_of(PROMPT, 60)
    assert core.drafted is not None
    assert bool(read) == (told == "right")
    assert bool(core.drafted.compared) == (told != "absurd")
    assert bool(core.drafted.unknown) == (told == "absurd")
    assert {event.wants_experts for event in driver.told if isinstance(event, SessionOpened)} == {True}
