"""The gate on a bus, with scripted members and a scripted judge."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from tests.edge.fake_judge import FakeJudge
from tests.edge.fake_speculator import FakeSpeculator, Script
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.gate.calibration import profile
from twd.gate.calibration.profile import Profile
from twd.gate.returning import RETURNING
from twd.gate.service import Gate
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.jobs.owner import Deliver, Fail, Finish, JobOwner, OwnerPolicy, Release, Submit
from twd.kit.service import Effects, Service, ServiceContext
from twd.settings.model import Settings
from twd.wire.base import Event, JobId, ModelId, NodeId
from twd.wire.job import (
    AnswerVerdict,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    JobSubmitted,
    Prompt,
    Sampling,
    TokensAccepted,
)
from twd.wire.judging import AnswerAudited, AnswerJudged, ModeClosed
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.service import ServiceExited

TRUTH = ["The ", "sea ", "is ", "blue ", "and ", "wide ", "and ", "deep "]


def ctx(broker: MemoryBroker, seed: int) -> ServiceContext:
    bus, ids = broker.connect("n"), Ids(random.Random(seed))
    return ServiceContext(bus=bus, node=NodeId("n"), clock=SystemClock(), ids=ids, pid=seed)


class Client(Service):
    """Owns the jobs of a test."""

    name = "edge"
    reads = (JobStarted, TokensAccepted, JobFinished, JobFailed, AnswerJudged, AnswerAudited, ModeClosed)
    writes = (JobSubmitted, JobCancelled, ServiceExited)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.owner: JobOwner | None = None
        self.text = ""
        self.end: JobFinished | Fail | None = None
        self.told: list[AnswerJudged] = []
        self.audited: list[AnswerAudited] = []
        self.closed: list[ModeClosed] = []
        self.over = asyncio.Event()

    def ask_for(self, **fields: object) -> None:
        given: dict[str, object] = {"prompt": Prompt(text="say"), "sampling": Sampling(seed=3), "whole": True} | fields
        job = JobSubmitted(
            job=self.ctx.ids.job(),
            model=ModelId("big+gate"),
            owner=self.instance,
            **given,  # type: ignore[arg-type]
        )
        self.over.clear()
        self.text, self.end = "", None
        self.owner = JobOwner(job, OwnerPolicy(), self.clock.now())
        self._act(self.owner.begin(self.clock.now()))

    def _act(self, actions: Sequence[object]) -> None:
        for action in actions:
            match action:
                case Submit(job, timeout_s):
                    self.ask_then(job, self._answered, timeout_s=timeout_s)
                case Deliver(event):
                    self.text += event.text
                case Finish(event):
                    self.end = event
                    self.over.set()
                case Fail():
                    self.end = action
                    self.over.set()
                case Release(event):
                    self.emit(event)

    def _answered(self, answer: object) -> None:
        assert isinstance(answer, JobQueued | JobFailed), answer
        self._hear(answer)

    def _hear(self, event: Event) -> Effects:
        if self.owner is not None:
            self._act(list(self.owner.handle(event, self.clock.now())))
        return None

    def on_job_started(self, event: JobStarted) -> Effects:
        return self._hear(event)

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        return self._hear(event)

    def on_job_finished(self, event: JobFinished) -> Effects:
        return self._hear(event)

    def on_job_failed(self, event: JobFailed) -> Effects:
        return self._hear(event)

    def on_answer_audited(self, event: AnswerAudited) -> Effects:
        self.audited.append(event)
        return None

    def on_mode_closed(self, event: ModeClosed) -> Effects:
        self.closed.append(event)
        return None

    def on_answer_judged(self, event: AnswerJudged) -> Effects:
        self.told.append(event)
        return None


@dataclass
class Rig:
    """A gate with two members, a judge and a client."""

    gate: Gate
    judge: FakeJudge
    members: list[FakeSpeculator]
    client: Client
    broker: MemoryBroker
    services: list[Service] = field(default_factory=list)

    async def answer(self, **fields: object) -> JobFinished:
        self.client.ask_for(**fields)
        async with asyncio.timeout(10):
            await self.client.over.wait()
        assert isinstance(self.client.end, JobFinished), self.client.end
        return self.client.end


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    broker = MemoryBroker()
    settings = msgspec.convert(
        {
            "home": str(tmp_path),
            "models": {"big": {"path": "x"}, "a": {"path": "x"}, "b": {"path": "x"}},
            "gate": {"fleet": ["a", "b"], "economy": False, "audit": 0.5},
        },
        Settings,
    )
    judge = FakeJudge(ctx(broker, 1), Script(words=list(TRUTH)), ModelId("big"))
    members = [
        FakeSpeculator(ctx(broker, 2 + n), Script(words=list(TRUTH)), ModelId(name)) for n, name in enumerate("ab")
    ]
    client = Client(ctx(broker, 8))
    gate = Gate(ctx(broker, 9), settings, dice=random.Random(1).random)
    services: list[Service] = [judge, *members, client, gate]
    for service in services:
        await service.start()
    yield Rig(gate, judge, members, client, broker)
    for service in reversed(services):
        await service.stop()
        assert service.fault is None


async def test_an_approved_answer_is_the_members_and_exact(rig: Rig) -> None:
    end = await rig.answer()
    assert rig.client.text == "".join(TRUTH)
    assert end.judged is not None
    assert (end.judged.verdict, end.judged.member) == (AnswerVerdict.APPROVE, "a")
    assert end.stats.completion_tokens == len(TRUTH)
    await until(lambda: len(rig.client.told) == 1)
    assert not [job for job in rig.judge.jobs if job.judge is None]


async def test_a_wrong_answer_becomes_the_targets_text(rig: Rig) -> None:
    rig.members[0].script.words = [*TRUTH[:4], "wrong ", "words "]
    end = await rig.answer()
    assert rig.client.text == "".join(TRUTH)
    assert end.judged is not None
    assert (end.judged.verdict, end.judged.kept) == (AnswerVerdict.CORRECT, 4)


async def test_streams_leave_before_the_member_is_done(rig: Rig) -> None:
    rig.judge.script.words = [f"word{n} " for n in range(120)]
    rig.members[0].script.words = [*rig.judge.script.words[:100], "bad ", *rig.judge.script.words[101:]]
    end = await rig.answer(whole=False)
    assert rig.client.text == "".join(rig.judge.script.words)
    assert end.judged is not None
    assert end.judged.verdict is AnswerVerdict.CORRECT
    await until(lambda: len(rig.client.told) == 1)
    assert rig.client.told[0].cost.member_ms > 0.0


async def test_members_that_fail_or_are_empty_change_nothing(rig: Rig) -> None:
    rig.members[0].script.fail_after = 2
    rig.members[1].script.words = [" "]
    await rig.answer()
    assert rig.client.text == "".join(TRUTH)
    assert rig.gate.fleet.members["a"].failed == 1


async def test_without_members_the_target_writes(rig: Rig) -> None:
    for member in rig.members:
        await member.stop()
    end = await rig.answer()
    assert rig.client.text == "".join(TRUTH)
    assert end.judged is not None
    assert end.judged.verdict is AnswerVerdict.EXACT


@pytest.mark.parametrize("phase", ["a member writes", "the judge scores", "the target writes"])
async def test_a_client_that_leaves_ends_the_job_that_runs(rig: Rig, phase: str) -> None:
    worker: FakeSpeculator = rig.members[0] if phase == "a member writes" else rig.judge
    worker.script.hang_after = 2
    if phase == "the target writes":
        for member in rig.members:
            member.script.fail_after = 0
    rig.client.ask_for()
    await until(lambda: any(job.judge is None or job.judge.text for job in worker.jobs))
    assert rig.client.owner is not None
    rig.client._act(list(rig.client.owner.cancel("left", rig.client.clock.now())))
    await until(lambda: worker.jobs[-1].job in worker.cancelled)
    await until(lambda: not rig.gate._requests and not len(rig.gate.parts))


async def test_the_judge_goes_on_after_a_gate_was_lost(rig: Rig) -> None:
    end = await rig.answer(resume=[0, 1, 2])
    assert rig.client.text == "".join(TRUTH[3:])
    assert end.stats.completion_tokens == len(TRUTH)


async def test_the_end_of_a_judge_that_started_before_the_gate_is_noticed_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = dataclasses.replace(RETURNING, silence_s=60.0)
    monkeypatch.setattr("twd.gate.returning.RETURNING", patient)
    await rig.gate._look()
    rig.judge.script.hang_after = 0
    rig.client.ask_for()
    await until(lambda: any(_scores_now(part.owner, rig) for part in rig.gate.parts._parts.values()))
    rig.judge.script = Script(words=list(TRUTH))
    exited = ServiceExited(service="speculator", node=NodeId("n"), pid=rig.judge.ctx.pid, exit_code=-9, restarts=1)
    rig.client.emit(exited)
    async with asyncio.timeout(10):
        await rig.client.over.wait()
    assert rig.client.text == "".join(TRUTH)
    assert rig.judge.jobs[-1].attempt == 2


def _scores_now(owner: JobOwner, rig: Rig) -> bool:
    return bool(owner.job.judge is not None and owner.job.judge.text and owner.worker == rig.judge.instance)


async def test_the_same_answer_is_scored_once(rig: Rig) -> None:
    for _ in range(3):
        await rig.answer()
        assert rig.client.text == "".join(TRUTH)
    scored = [job for job in rig.judge.jobs if job.judge is not None and job.judge.text]
    assert len(scored) == 1
    assert rig.gate.cache.hits == 2


async def calibrated(rig: Rig, **changed: object) -> None:
    """A profile for the first member, as a calibration would have written it."""
    gate = rig.gate
    await gate._look()
    job = JobSubmitted(job=JobId("x"), model=ModelId("big+gate"), owner=gate.instance, prompt=Prompt(text="say"))
    made = Profile(
        conditions=gate.trust.conditions(job, "big", "a", gate._facts_of),
        statistic="token",
        tolerance=2.0,
        max_error=0.05,
        confidence=0.95,
        passes=100,
        errors=0,
        bound=0.03,
        prompts="p",
        error="same",
    )
    profile.write(gate.settings.home_dir, msgspec.structs.replace(made, **changed))
    gate.trust.reload(gate.targets, gate.fleet.members)


async def test_a_calibrated_member_may_deviate_until_audits_forbid_it(rig: Rig) -> None:
    await calibrated(rig)
    rig.gate.fleet.members["b"].gone = True
    rig.members[0].script.words = [*TRUTH[:3], "green ", *TRUTH[4:]]
    end = await rig.answer()
    assert rig.client.text == "".join(rig.members[0].script.words)
    assert end.judged is not None
    assert (end.judged.verdict, end.judged.approximate, end.judged.unlike) == (AnswerVerdict.APPROVE, True, 1)
    while not rig.client.closed:
        audits = len(rig.client.audited)
        await rig.answer()
        await until(lambda audits=audits: len(rig.client.audited) > audits or rig.client.closed)  # type: ignore[misc]
        assert audits < 20
    assert rig.client.audited[-1].low > 0.05
    end = await rig.answer()
    assert rig.client.text == "".join(TRUTH)
    assert end.judged is not None
    assert not end.judged.approximate
    assert "audited" in rig.gate.trust.stale["big", "a"]


async def test_a_profile_of_another_judge_allows_nothing(rig: Rig) -> None:
    await calibrated(rig)
    found = rig.gate.trust.standing["big", "a"].profile
    other = msgspec.structs.replace(found.conditions, judge_is="another")
    await calibrated(rig, conditions=other)
    rig.members[0].script.words = [*TRUTH[:3], "green ", *TRUTH[4:]]
    end = await rig.answer()
    assert rig.client.text == "".join(TRUTH)
    assert end.judged is not None
    assert not end.judged.approximate


async def test_models_that_come_later_judge_too(rig: Rig) -> None:
    late = FakeJudge(ctx(rig.broker, 20), Script(words=list(TRUTH)), ModelId("late"))
    await late.start()
    await rig.gate._look()
    assert rig.gate.targets == ["big", "late"]
    await late.stop()


async def test_a_target_that_still_loads_is_not_asked_in_words(rig: Rig) -> None:
    await rig.gate._look()
    loaded = rig.gate._scores(ModelId("big"))
    loading = [
        msgspec.structs.replace(lease, facts=SpeculatorFacts(model=ModelId("big"), ready=False))
        for lease in rig.gate._seen
        if lease.model == "big"
    ]
    rig.gate._seen = loading
    assert loading
    assert (loaded, rig.gate._scores(ModelId("big"))) == (True, None)
    assert not rig.gate._in_words(ModelId("big"))
