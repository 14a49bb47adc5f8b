"""Drafters that read text are told the prompt of a remote target, unless it cannot be read."""

import pytest

from tests.backends.fakes.toy import TOY
from tests.backends.listener import job
from tests.backends.verifier.towers import OpenTower
from tests.waiting import until
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DrafterAttached, SessionOpened
from twd.wire.model import VocabFingerprint


@pytest.mark.parametrize("mode", ["500", "hang"])
async def test_a_prompt_that_cannot_be_told_to_a_drafter_by_text_is_left_out(
    open_tower: OpenTower, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.backends.verifier.prompt_texts.KEPT_MAX", 1)
    tower = await open_tower(timeout_s=60)
    await tower.run(job("once upon", "warm", max_tokens=10))
    await tower.run(job("another", "warm too", max_tokens=1))
    await tower.ear.registers(_by_text().drafter)
    await tower.ear.publish(_by_text())
    await until(lambda: bool(tower.speculator.facts().drafters) and tower.speculator._idle.is_set())
    tower.server.faults.mode, tower.server.faults.only = mode, "detokenize"
    text, _ = await tower.run(job("once upon", max_tokens=3))
    assert text == TOY.shown(TOY.generate(TOY.tokenize("once upon"), 3))
    (opened,) = tower.ear.of(SessionOpened, "job-1")
    assert opened.text == ""


async def test_a_drafter_by_text_is_told_the_prompt(open_tower: OpenTower) -> None:
    tower = await open_tower()
    await tower.ear.registers(_by_text().drafter)
    await tower.ear.publish(_by_text())
    await until(lambda: bool(tower.speculator.facts().drafters) and tower.speculator._idle.is_set())
    for number in range(2):  # whoever asks first may be too early
        await tower.run(job("once upon", f"job-{number}", max_tokens=3))
    (opened,) = tower.ear.of(SessionOpened, "job-1")
    assert opened.text == "once upon"


def _by_text() -> DrafterAttached:
    vocab = VocabFingerprint(hash="", tokens=0, kind="")
    return DrafterAttached(
        drafter=InstanceId("drafter.far.x"), node=NodeId("far"), model=ModelId("small"), vocab=vocab, by_text=True
    )
