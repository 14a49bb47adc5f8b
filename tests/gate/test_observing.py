"""What prompts give that are asked of a scripted member and judge, and what is not asked a second time."""

import random
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.edge.fake_judge import FakeJudge
from tests.edge.fake_speculator import FakeSpeculator, Script
from tests.gate.test_gate_service import TRUTH, ctx
from twd.bus.memory.bus import MemoryBroker
from twd.gate.asking import Asker
from twd.gate.calibration.kept import KeptObservations
from twd.gate.calibration.lines import Line, read_lines
from twd.gate.calibration.search import Observation
from twd.gate.observing import Task, observe
from twd.wire.base import ModelId
from twd.wire.job import Sampling

TASK = Task("big", Sampling(seed=0), max_tokens=20)
LINES = read_lines(
    [
        '{"prompt": "Say it.", "check": {"contains": "blue"}, "kind": "talk"}',
        '{"prompt": "Say that.", "check": {"contains": "green"}}',
        '{"prompt": "Say more."}',
    ]
).lines


@dataclass
class Answerers:
    """A member, a judge, and who asks them."""

    asker: Asker
    judge: FakeJudge
    member: FakeSpeculator

    @property
    def asked(self) -> int:
        return len(self.judge.jobs) + len(self.member.jobs)

    async def observe(self, kept: KeptObservations | None = None) -> tuple[list[Observation], list[str]]:
        found = await observe(self.asker, LINES, TASK, {"a": kept or KeptObservations()}, lambda *_: None)
        return found["a"].seen, [one.why for one in found["a"].failed]


@pytest.fixture
async def answerers() -> AsyncIterator[Answerers]:
    broker = MemoryBroker()
    judge = FakeJudge(ctx(broker, 1), Script(words=list(TRUTH)), ModelId("big"))
    member = FakeSpeculator(ctx(broker, 2), Script(words=[*TRUTH[:3], "green ", *TRUTH[4:]]), ModelId("a"))
    asker = Asker(ctx(broker, 3))
    for service in (judge, member, asker):
        await service.start()
    yield Answerers(asker, judge, member)
    for service in (asker, member, judge):
        await service.stop()
        assert service.fault is None


async def test_an_error_is_what_the_judge_has_right_and_the_member_wrong(answerers: Answerers) -> None:
    seen, failed = await answerers.observe()
    assert [one.wrong for one in seen] == [True, False]
    assert [one.kind for one in seen] == ["talk", ""]
    assert [sum(one.gaps) for one in seen] == [1.0, 1.0]
    assert failed == ["it has no check; give one, or --error same"]


async def test_the_judge_has_read_the_prompt_before_it_scores(answerers: Answerers) -> None:
    await answerers.observe()
    assert [job.judge is not None for job in answerers.judge.jobs] == [False, True] * 2


async def test_the_judge_answers_once_for_all_members(answerers: Answerers) -> None:
    members = {"a": KeptObservations(), "big": KeptObservations()}
    found = await observe(answerers.asker, LINES[:1], TASK, members, lambda *_: None)
    assert [one.wrong for name in members for one in found[name].seen] == [True, False]
    assert [job.judge is not None for job in answerers.judge.jobs] == [False, True, False, True]


async def test_what_is_kept_is_not_asked_again(answerers: Answerers, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    first, _ = await answerers.observe(KeptObservations(path, "now"))
    asked = answerers.asked
    again, _ = await answerers.observe(KeptObservations(path, "now"))
    assert (again, answerers.asked) == (first, asked)
    await answerers.observe(KeptObservations(path, "another model"))
    assert answerers.asked == 2 * asked


def observation(dice: random.Random) -> Observation:
    return Observation("c", (dice.random(), dice.random()), wrong=True, tokens=2)


def test_a_cut_row_costs_only_itself(tmp_path: Path) -> None:
    path, dice = tmp_path / "kept.jsonl", random.Random(1)
    lines = [Line((), conversation=str(number)) for number in range(3)]
    seen = [observation(dice) for _ in lines]
    kept = KeptObservations(path)
    for line, one in zip(lines[:2], seen, strict=False):
        kept.add(line, one)
    path.write_bytes(path.read_bytes()[:-20])
    KeptObservations(path).add(lines[2], seen[2])
    now = KeptObservations(path)
    assert [now.find(line) for line in lines] == [seen[0], None, seen[2]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Say it."}\n')
    with pytest.raises(ValueError, match="holds no observations"):
        KeptObservations(path)
