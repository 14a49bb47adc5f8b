"""Whatever members, judge and target do, and in whatever order: one end, nothing twice, nothing after it."""

import random

import pytest

from tests.gate.test_gate_core import GONE, accepted, finished, job, started
from twd.gate.actions import Action, Ask, AskJudge, Break, End, Say, ScoreAnswer, Stop, Write
from twd.gate.core import GateJob
from twd.gate.verdict import Rule, Terms

WORDS = ("sea", "is", "blue", "and", "wide", "deep", "cold")


def step(core: GateJob, dice: random.Random, parts: dict[int, Action], now: float) -> list[Action]:
    """One random thing that one of the live parts does."""
    if dice.random() < 0.1 or not parts:
        return core.tick(now, late_s=dice.choice((0.5, 50.0)))
    number = dice.choice(list(parts))
    part = parts[number]
    if dice.random() < 0.12:
        del parts[number]
        return core.failed(number, GONE, now)
    if dice.random() < 0.2:
        return core.started(number, started())
    if isinstance(part, ScoreAnswer) and part.judge.text:
        words = [word + " " for word in part.judge.text.split()]
        gaps = [0.0 if dice.random() < 0.9 else 2.0 for _ in words]
        at = len(part.resume)
        del parts[number]
        told = core.text(number, accepted(at, list(range(at, at + len(words))), "".join(words), gaps), now)
        return told + core.finished(number, finished(end=0.0 if part.judge.ends else None), now)
    if dice.random() < 0.3 or isinstance(part, ScoreAnswer):
        del parts[number]
        return core.finished(number, finished(), now)
    text = dice.choice(("APPROVE", "REJECT")) if isinstance(part, AskJudge) else f"{dice.choice(WORDS)} " * 20
    tokens = [dice.randrange(9)] if isinstance(part, Write) else []
    return core.text(number, accepted(0, tokens, text), now)


@pytest.mark.parametrize("seed", range(150))
def test_one_end_and_nothing_after_it(seed: int) -> None:
    dice = random.Random(seed)
    terms = Terms(
        rules={"a": Rule("mean", 0.3)} if dice.random() < 0.5 else {},
        hold=dice.choice((0, 4, 20)),
        ask=dice.choice((1, 2)),
        retries=dice.choice((0, 2)),
        in_words=dice.random() < 0.2,
        fail_open=dice.random() < 0.5,
    )
    core, now = GateJob(job(), terms, ["a", "b", "c"], 0.0), 0.0
    parts: dict[int, Action] = {}
    ends = writes = 0
    actions = core.begin(now)
    for _ in range(400):
        for action in actions:
            assert not ends, f"{action} after the end"
            match action:
                case Ask(number) | AskJudge(number) | ScoreAnswer(number):
                    parts[number] = action
                case Write(number):
                    parts[number] = action
                    writes += 1
                case Stop(number):
                    parts.pop(number, None)
                case Say(tokens):
                    assert tokens or action.text
                case End() | Break():
                    ends += 1
                case _:
                    pass
        if ends:
            break
        now += dice.choice((0.01, 1.0, 5.0))
        actions = step(core, dice, parts, now)
    assert ends == 1
    assert writes <= 1
    assert core.ended
    assert not [part for part in parts.values() if not isinstance(part, Write)]
