"""What a grammar demands is checked without a drafter, and behind a drafter's guesses; a lie about it costs nothing."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from tests.speculator.fakes import Driver, FakePipeline, FakeTarget, job, make_core, opening, text_of
from twd.drafting.continuation import KnownContinuation
from twd.speculator.core.session import GRAMMAR
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, NodeId
from twd.wire.draft import DraftProposed, SessionOpened
from twd.wire.job import Grammar, GrammarKind, JobFinished, JobStats, Speculation, TokensAccepted

PROMPT = [3, 4, 5, 6]
COUNT = 60
TRUE = text_of(PROMPT, COUNT)
FREE = 10
"""Every so many tokens two are free; all others are demanded."""


class Demands:
    """Knows the text, but for what is free in it."""

    def __init__(self, text: Sequence[int], free: Callable[[int], bool] = lambda at: at % FREE < 2) -> None:
        self._text, self._free = text, free
        self._at = 0

    def extend(self, tokens: Sequence[int]) -> None:
        self._at += len(tokens)

    def propose(self, limit: int, beyond: Sequence[int] = ()) -> tuple[list[int], list[float]]:
        at = self._at + len(beyond)
        end = next((place for place in range(at, len(self._text)) if self._free(place)), len(self._text))
        found = list(self._text[at : min(end, at + max(0, limit))])
        return found, [0.95] * len(found)


def played(
    ahead: KnownContinuation | None,
    target: FakeTarget | None = None,
    between: Callable[[Driver], None] | None = None,
    **fields: object,
) -> tuple[list[int], JobStats]:
    """What is said, and what it cost."""
    used = target or FakeTarget()
    driver = Driver(make_core(used, ngram=False), used, between=between)
    asked = job("j", max_tokens=COUNT, **fields)
    driver.core.submit(asked, dataclasses.replace(opening("j", PROMPT), ahead=ahead), driver.now)
    driver.run()
    (done,) = [event for event in driver.told if isinstance(event, JobFinished)]
    return [token for event in driver.told if isinstance(event, TokensAccepted) for token in event.tokens], done.stats


def test_what_is_demanded_needs_no_drafter() -> None:
    said, stats = played(Demands(TRUE))
    assert said == TRUE
    assert stats.passes <= COUNT / FREE * 3 + 1
    (share,) = stats.drafters
    assert (share.drafter, share.taken) == (GRAMMAR, share.checked)
    assert share.taken >= COUNT - COUNT / FREE * 3 - 1


def test_behind_a_drafters_guesses_it_goes_on() -> None:
    alone = played(Demands(TRUE))[1].passes

    def guess(driver: Driver) -> None:
        """Of what is free, and no more."""
        for session in driver.core.by_id.values():
            at = session.generated % FREE
            if at < 2:
                event = DraftProposed(
                    session=session.id,
                    drafter=InstanceId("d"),
                    at=len(session.tokens),
                    prefix=session.hashes[-1],
                    tokens=TRUE[session.generated :][: 2 - at],
                    confidence=[0.9] * 2,
                )
                driver.core.draft(event, event.tokens, driver.now)

    said, stats = played(Demands(TRUE), between=guess)
    assert said == TRUE
    assert stats.passes <= COUNT / FREE + 2 < alone
    assert {share.drafter for share in stats.drafters} == {GRAMMAR, "d"}


@pytest.mark.parametrize("text", [list(reversed(TRUE)), [1000] * COUNT, TRUE[1:], []])
@pytest.mark.parametrize("pipeline", [False, True])
def test_a_lie_costs_no_token(text: list[int], pipeline: bool) -> None:
    said, stats = played(Demands(text, free=lambda at: False), FakePipeline(in_flight=4) if pipeline else FakeTarget())
    assert said == TRUE
    assert stats.completion_tokens == COUNT


def test_windows_in_flight_are_filled_from_it() -> None:
    pipe = FakePipeline(in_flight=4)
    said, stats = played(Demands(TRUE, free=lambda at: at % 30 == 29), pipe)
    assert said == TRUE
    assert pipe.most > 1
    assert stats.passes < COUNT / 2


def test_a_job_that_is_taken_over_goes_on_where_it_stood() -> None:
    said, stats = played(Demands(TRUE), resume=TRUE[:33], attempt=2)
    assert said == TRUE[33:]
    assert stats.passes <= 3 * 3 + 1


def test_who_wants_no_guesses_gets_none() -> None:
    said, stats = played(Demands(TRUE), speculation=Speculation(enabled=False))
    assert said == TRUE
    assert stats.checked == 0


@pytest.mark.parametrize(("size", "told"), [(100, True), (100_000, False)])
def test_drafters_are_told_of_a_grammar_that_is_not_long(size: int, told: bool) -> None:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    driver.core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    grammar = Grammar(kind=GrammarKind.GBNF, text="x" * size)
    driver.core.submit(job("j", grammar=grammar, ignore_eos=True), opening("j", PROMPT), driver.now)
    driver.run()
    opened = next(event for event in driver.told if isinstance(event, SessionOpened))
    assert opened.grammar == (grammar if told else None)
    assert (opened.prompt_tokens, opened.ignore_eos) == (len(PROMPT), True)
