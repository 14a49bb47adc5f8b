"""Who writes the next answer, and whether anybody should."""

import random

import pytest

from twd.gate.economy import TRIES, Economy
from twd.gate.routing import RECENT, REST_ANSWERS, Fleet, Routing
from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.job import ChatMessage, JobSubmitted, Prompt

DICE = random.Random(3).random


def job(*said: str) -> JobSubmitted:
    roles = ("user", "assistant")
    messages = [ChatMessage(role=roles[place % 2], content=text) for place, text in enumerate(said)]  # type: ignore[arg-type]
    return JobSubmitted(
        job=JobId("j"), model=ModelId("m+gate"), owner=InstanceId("e"), prompt=Prompt(messages=messages)
    )


def test_by_turns_each_is_first_in_its_turn() -> None:
    fleet = Fleet(["a", "b", "c"], "round_robin")
    assert [fleet.order(job("x"), DICE)[0] for _ in range(4)] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("routing", ["round_robin", "random", "adaptive"])
def test_a_conversation_stays_with_its_member(routing: Routing) -> None:
    fleet = Fleet(["a", "b", "c"], routing)
    fleet.wrote(job("hello"), "c")
    assert all(fleet.order(job("hello", "hi", "more"), DICE)[0] == "c" for _ in range(5))


def test_the_one_that_brings_most_is_asked_most() -> None:
    fleet = Fleet(["a", "b"], "adaptive")
    for _ in range(20):
        fleet.members["a"].judged(0.9)
        fleet.members["b"].judged(0.3)
    fleet.members["a"].took(1.0)
    fleet.members["b"].took(1.0)
    firsts = [fleet.order(job("x"), DICE)[0] for _ in range(100)]
    assert firsts.count("a") > 80
    assert firsts.count("b") > 0


def test_who_never_passes_rests_within_twenty_answers_and_is_tried_again() -> None:
    fleet = Fleet(["bad"], "round_robin")
    asked = 0
    while fleet.order(job("x"), DICE):
        asked += 1
        fleet.members["bad"].judged(0.0)
    assert asked == RECENT <= 20
    waits = 0
    while not fleet.order(job("x"), DICE):
        waits += 1
    assert waits <= REST_ANSWERS


def test_nobody_judges_where_exact_speculation_is_as_cheap() -> None:
    economy, dear, dice = Economy(), 0, random.Random(1)
    for _ in range(400):
        judging = economy.judging()
        dear += judging
        way = economy.judged if judging else economy.exact
        way.learn(120.0 if judging else 100.0 * dice.uniform(0.98, 1.02), 100)
    assert not economy.pays
    assert dear <= TRIES + 400 // 20
    spent = (dear * 120 + (400 - dear) * 100) / (400 * 100)
    assert spent <= 1.03


def test_judging_goes_on_where_it_is_cheaper() -> None:
    economy, judged = Economy(), 0
    for _ in range(400):
        judging = economy.judging()
        judged += judging
        (economy.judged if judging else economy.exact).learn(50.0 if judging else 100.0, 100)
    assert judged > 350
