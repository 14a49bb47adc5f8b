"""A speculator goes on with a text that another began: nothing is said twice, nothing is left out."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.speculator.fakes import Driver, FakeTarget, job, make_core, opening, text_of
from twd.chat.text import Detokenizer
from twd.wire.job import FinishReason, JobFinished, TokensAccepted

PROMPT = [5, 6, 7]


def run(resume: Sequence[int] = (), **fields: Any) -> Driver:
    target = FakeTarget()
    driver = Driver(make_core(target), target)
    submitted = job("j", resume=list(resume), attempt=2 if resume else 1, **fields)
    driver.core.submit(submitted, opening("j", PROMPT), 0.0)
    driver.read()
    driver.run()
    return driver


def told(driver: Driver) -> tuple[str, JobFinished]:
    ends = [event for event in driver.told if isinstance(event, JobFinished)]
    assert len(ends) == 1
    return "".join(event.text for event in driver.told if isinstance(event, TokensAccepted)), ends[0]


def shown(tokens: Sequence[int]) -> str:
    return "".join(f"{token} " for token in tokens)


@pytest.mark.parametrize("had", [0, 1, 7, 39, 40])
def test_the_text_is_the_same_from_every_place(had: int) -> None:
    whole = text_of(PROMPT, 40)
    text, end = told(run(whole[:had]))
    assert shown(whole[:had]) + text + end.tail == shown(whole)
    assert (end.reason, end.stats.completion_tokens) == (FinishReason.LENGTH, 40)


def test_a_text_that_was_whole_gets_only_its_end() -> None:
    whole = text_of(PROMPT, 40)
    driver = run(whole)
    assert driver.target.opened == 0
    assert told(driver)[0] == ""


@pytest.mark.parametrize("had", [0, 5, 19, 20])
def test_a_stop_string_across_the_border_is_found(had: int) -> None:
    whole = text_of(PROMPT, 40)
    stop = f" {whole[18]} {whole[19]} "
    before = Detokenizer(lambda token: b"%d " % token, [stop]).feed(whole[:had])
    text, end = told(run(whole[:had], stop=[stop]))
    assert end.reason is FinishReason.STOP
    if had < 19:
        assert before + text + end.tail == shown(whole[:18])[:-1]
    else:
        assert text + end.tail == ""


def test_what_a_stop_string_held_back_comes_once_with_the_end() -> None:
    whole = text_of(PROMPT, 10)
    stop = shown(whole[8:10]) + "never"
    first = run(max_tokens=10, stop=[stop])
    text, end = told(first)
    assert end.tail == shown(whole[8:10])
    assert text + end.tail == shown(whole)
    again, end = told(run(whole, max_tokens=10, stop=[stop]))
    assert (again, end.tail) == ("", shown(whole[8:10]))


def test_a_full_context_ends_a_text_that_was_taken_over() -> None:
    target = FakeTarget(ctx_size=24)
    driver = Driver(make_core(target), target)
    whole = text_of(PROMPT, 40)[:21]
    driver.core.submit(job(resume=whole, max_tokens=None), opening("j", PROMPT), 0.0)
    driver.read()
    assert told(driver)[1].reason is FinishReason.LENGTH
