"""Pieces of a text: each at once where somebody waits for it, several together where nobody reads that fast."""

import dataclasses
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, opening, text_of
from twd.speculator.admission.request_preprocessor import is_quick
from twd.speculator.core.output_coalescing import joined, may_wait
from twd.speculator.drafters.drafter_link import AttachedDrafter
from twd.wire.base import InstanceId, JobId, NodeId, SessionId
from twd.wire.job import (
    ChatMessage,
    Grammar,
    GrammarKind,
    JobFailed,
    JobFinished,
    JobStarted,
    Prompt,
    Speculation,
    Thoughts,
    TokenLogprob,
    TokensAccepted,
)

PROMPT = [5, 6, 7, 8]
OFF = Speculation(enabled=False)
STEP_MS, STREAM_MS = 10.0, 45.0


def made(**limits: Any) -> Driver:
    target = FakeTarget()
    return Driver(make_core(target, lambda rows: STEP_MS, stream_ms=STREAM_MS, **limits), target)


def pieces(driver: Driver, name: str = "j") -> list[int]:
    said = [event for event in driver.told if isinstance(event, TokensAccepted) and event.job == name]
    return [len(event.tokens) for event in said]


def with_unsaid(count: int) -> Driver:
    """A text of which five tokens are told, and so many are not."""
    driver = made()
    driver.submit(job(speculation=OFF), PROMPT)
    while sum(pieces(driver)) < 5:
        driver.turn()
    for _ in range(count):
        driver.turn()
    assert sum(pieces(driver)) == 5
    return driver


def test_the_first_piece_leaves_at_once_and_later_ones_together() -> None:
    driver = made()
    driver.submit(job(speculation=OFF, max_tokens=12), PROMPT)
    driver.run()
    assert pieces(driver) == [1, 4, 4, 3]
    assert driver.tokens("j") == text_of(PROMPT, 12)
    assert isinstance(driver.told[-1], JobFinished), "nothing comes behind the end"


def test_where_thoughts_may_come_each_tokens_share_of_the_text_is_told() -> None:
    for thoughts in (None, Thoughts("<think>", "</think>")):
        driver = made()
        whole = job(speculation=OFF, max_tokens=12)
        driver.core.submit(whole, dataclasses.replace(opening(whole.job, PROMPT), thoughts=thoughts), driver.now)
        driver.run()
        said = [event for event in driver.told if isinstance(event, TokensAccepted)]
        shares = [[len(f"{token} ") for token in event.tokens] for event in said]
        assert max(map(len, shares)) == 4
        assert [event.lengths for event in said] == (shares if thoughts else [[] for _ in said])


def test_slow_pieces_leave_one_by_one() -> None:
    target = FakeTarget()
    driver = Driver(make_core(target, lambda rows: STREAM_MS / 2 + 1, stream_ms=STREAM_MS), target)
    driver.submit(job(speculation=OFF, max_tokens=6), PROMPT)
    driver.run()
    assert pieces(driver) == [1] * 6


def test_an_answer_that_is_read_at_its_end_is_told_in_fewer_pieces() -> None:
    driver = made()
    driver.submit(job(speculation=OFF, max_tokens=30, whole=True), PROMPT)
    driver.run()
    assert pieces(driver) == [1, 22, 7]


def test_drafters_at_work_hear_of_each_piece_at_once() -> None:
    driver = made(ngram=False)
    driver.core.attach(AttachedDrafter(InstanceId("d"), NodeId("n"), beside=False), 0.0)
    driver.submit(job(max_tokens=6, speculation=Speculation(window=2)), PROMPT)
    driver.run()
    assert pieces(driver) == [1, 1, 1, 1, 2], "before the last token it is told to rest"


def test_who_comes_later_finds_nothing_unsaid() -> None:
    driver = with_unsaid(2)
    driver.submit(job("late", speculation=OFF), PROMPT)
    driver.turn()
    assert sum(pieces(driver)) >= 7, "the next pass reads a prompt and may take long"


def test_what_is_unsaid_is_told_before_a_failure() -> None:
    driver = with_unsaid(1)
    driver.core.cancel(JobId("j"), driver.now, "enough")
    driver.read()
    assert sum(pieces(driver)) == 6
    assert isinstance(driver.told[-1], JobFailed)


def test_life_is_shown_behind_what_was_unsaid() -> None:
    driver = with_unsaid(1)
    driver.now += 5.0
    driver.core.tick(driver.now)
    driver.read()
    assert pieces(driver)[-1] == 1
    assert driver.tokens("j") == text_of(PROMPT, 6)


def test_joined_is_what_both_said() -> None:
    first = TokensAccepted(
        job=JobId("j"), attempt=1, session=SessionId("s"), at=4, index=0, tokens=[7], text="a", checked=3, taken=0,
        logprobs=[TokenLogprob(token=7, text="a", logprob=-1.0)], lengths=[1],
    )  # fmt: skip
    then = replace(first, at=5, index=1, tokens=[8, 9], text="bc", checked=2, taken=1, drafter="d", lengths=[0, 2])
    both = joined(first, then)
    assert (both.at, both.index, both.tokens, both.text) == (4, 0, [7, 8, 9], "abc")
    assert both.lengths == [1, 0, 2]
    assert (both.checked, both.taken, both.drafter, len(both.logprobs)) == (5, 1, "d", 2)


@given(since=st.floats(0, 1e4), coming=st.floats(0, 1e4), stream=st.floats(0, 1e3))
def test_nothing_waits_longer_than_was_set(since: float, coming: float, stream: float) -> None:
    if may_wait(since, coming, stream, whole=False):
        assert since + coming <= stream
        assert may_wait(since, coming, stream, whole=True)


def test_a_short_prompt_is_told_with_its_first_token_and_a_long_one_before() -> None:
    driver = made()
    driver.submit(job(speculation=OFF, max_tokens=2), PROMPT)
    driver.turn()
    assert [type(event) for event in driver.told] == [JobStarted, TokensAccepted]
    target = FakeTarget()
    slow = Driver(make_core(target, lambda rows: STREAM_MS + 1, stream_ms=STREAM_MS), target)
    slow.submit(job(speculation=OFF, max_tokens=2), PROMPT)
    for session in slow.core.admit(slow.now):
        slow.core.opened(session, *target.open(session.tokens, session.sampler), slow.now)
    assert [type(event) for event in slow.read()] == [JobStarted]
    long = made()
    long.submit(job(speculation=OFF, max_tokens=2), PROMPT * 5)
    long.turn()
    assert [type(event) for event in long.told] == [JobStarted], "its prompt takes more than one pass"


def test_short_prompts_need_no_thread() -> None:
    asked = partial(job, prompt=Prompt(messages=[ChatMessage(role="user", content="x" * 100)]))
    assert not is_quick(asked())  # its chat template may be hostile
    assert is_quick(job(prompt=Prompt(text="x")))
    assert not is_quick(asked(grammar=Grammar(kind=GrammarKind.JSON)))
    assert not is_quick(job(prompt=Prompt(text="x" * 5000)))
    assert not is_quick(job(prompt=Prompt(tokens=[1] * 5000)))
    assert not is_quick(job(prompt=Prompt(messages=[ChatMessage(role="user", content="x")] * 100)))
