"""The metrics service on a bus: it hears broadcasts, answers questions, and is in nobody's way."""

import random
from pathlib import Path

import msgspec
import pytest

from tests.metrics.told import WHOLE_JOB, accepted, finished, lease, started
from tests.signed import signed
from tests.waiting import until
from twd.bus.base import NoResponders
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.metrics.families import REJECTED
from twd.metrics.service import MetricsService
from twd.settings.model import Settings
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.codec import decode, encode
from twd.wire.draft import SessionOpened
from twd.wire.job import (
    CALIBRATION,
    DrafterShare,
    FinishReason,
    JobFinished,
    JobStarted,
    JobStats,
    JobSubmitted,
    Prompt,
)
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.model import VocabFingerprint
from twd.wire.routes import subject_of
from twd.wire.service import Health
from twd.wire.trace import (
    HistoryReported,
    HistoryRequested,
    MetricsReported,
    MetricsRequested,
    TraceReported,
    TraceRequested,
)

JOB, SESSION, MODEL = JobId("j"), SessionId("s"), ModelId("m")


async def start(broker: MemoryBroker, home: Path) -> MetricsService:
    ctx = ServiceContext(broker.connect("desk"), NodeId("desk"), SystemClock(), Ids(random.Random(1)))
    metrics = MetricsService(ctx, Settings(home=str(home)))
    await metrics.start()
    return metrics


def tell(broker: MemoryBroker, event: Event) -> None:
    broker.connect("other").publish(subject_of(signed(event)), encode(signed(event)))


async def ask(broker: MemoryBroker, event: Event) -> object:
    return decode(await broker.connect("cli").request(subject_of(signed(event)), encode(signed(event)), timeout_s=5))


async def test_a_job_is_remembered_without_its_prompt(tmp_path: Path) -> None:
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    tell(broker, JobStarted(job=JOB, attempt=1, session=SESSION, model=MODEL, prompt_tokens=3))
    opened = SessionOpened(
        job=JOB,
        session=SESSION,
        model=MODEL,
        speculator=InstanceId("speculator.n.x"),
        node=NodeId("n"),
        tokens=[1, 2, 3],
        vocab=VocabFingerprint(hash="h", tokens=4),
        drafter=InstanceId("drafter.n.x"),
    )
    tell(broker, opened)
    tell(broker, JobFinished(job=JOB, attempt=1, reason=FinishReason.STOP, stats=JobStats()))
    await until(lambda: metrics.memory.sizes["ended"], "the end is heard")

    answer = await ask(broker, TraceRequested(job=JOB))
    assert isinstance(answer, TraceReported)
    events = [decode(bytes(raw)) for raw in answer.events]
    assert [type(event) for event in events] == [JobStarted, JobFinished], "it cannot hear prompts"

    history = await ask(broker, HistoryRequested())
    assert isinstance(history, HistoryReported)
    assert len(history.events) == 1
    await metrics.stop()


async def test_nobody_home_stays_visible_to_who_asks(tmp_path: Path) -> None:
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    job = JobSubmitted(job=JOB, model=MODEL, owner=InstanceId("o"), prompt=Prompt(text="hi"))
    with pytest.raises(NoResponders):
        await ask(broker, job)
    await metrics.stop()


async def test_an_unknown_job_has_an_empty_story(tmp_path: Path) -> None:
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    answer = await ask(broker, TraceRequested(job=JobId("never")))
    assert isinstance(answer, TraceReported)
    assert answer.events == []
    await metrics.stop()


async def test_nonsense_is_counted_and_told(tmp_path: Path) -> None:
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    broker.connect("other").publish("twd.v1.job.started.speculator.n.x.m.j", b"{")
    await until(lambda: metrics.facts().unread == 1, "nonsense is heard")
    await until(lambda: metrics.counting.figures.value(REJECTED, "job.started") == 1, "it is told as well")
    await metrics.stop()


async def history(broker: MemoryBroker) -> list[Event]:
    answer = await ask(broker, HistoryRequested())
    assert isinstance(answer, HistoryReported)
    return [event for raw in answer.events if isinstance(event := decode(bytes(raw)), Event)]


async def test_history_survives_a_restart_without_anybodys_words(tmp_path: Path) -> None:
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    tell(broker, finished("one"))
    tell(broker, msgspec.structs.replace(finished("two"), tail="my secret words", stop="secret too"))
    tell(broker, finished(f"{CALIBRATION}1"))
    await until(lambda: metrics.memory.sizes["ended"] == 2, "both ends are heard")
    await metrics.stop()
    assert b"secret" not in (tmp_path / "history" / "jobs.jsonl").read_bytes()

    again = await start(MemoryBroker(), tmp_path)
    assert again.memory.sizes["ended"] == 2
    await again.stop()
    with (tmp_path / "history" / "jobs.jsonl").open("ab") as file:
        file.write(b"nonsense")
    broker = MemoryBroker()
    third = await start(broker, tmp_path)
    assert [event.job for event in await history(broker)] == ["two", "one"]  # type: ignore[attr-defined]
    assert "1 lines" in third.note
    assert third.health is Health.OK
    await third.stop()


async def test_ends_are_kept_with_names_that_outlive_processes(tmp_path: Path) -> None:
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    metrics.counting.meet("drafter.desk.x1", "small")
    tell(broker, JobStarted(job=JOB, attempt=1, session=SESSION, model=MODEL, prompt_tokens=3))
    shares = [DrafterShare(drafter=name, checked=4, taken=2) for name in ("drafter.desk.x1", "ngram")]
    stats = JobStats(drafters=shares)
    tell(broker, JobFinished(job=JOB, attempt=1, reason=FinishReason.STOP, stats=stats, session=SESSION))
    await until(lambda: metrics.memory.sizes["ended"] == 1, "the end is heard")
    await metrics.stop()

    broker = MemoryBroker()
    again = await start(broker, tmp_path)
    (end,) = await history(broker)
    assert isinstance(end, JobFinished)
    assert end.model == MODEL
    assert [share.drafter for share in end.stats.drafters] == ["small@desk", "ngram"]
    await again.stop()


async def test_a_disk_that_takes_nothing_ends_no_service(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("in the way")
    broker = MemoryBroker()
    metrics = await start(broker, tmp_path)
    assert metrics.health is Health.DEGRADED
    tell(broker, finished("one"))
    await until(lambda: metrics.memory.sizes["ended"], "the end is heard")
    assert len(await history(broker)) == 1
    assert metrics.fault is None
    await metrics.stop()


async def test_all_figures_on_request(tmp_path: Path) -> None:
    broker = MemoryBroker()
    registry = await broker.connect("box").leases(LEASE_BUCKET, LEASE_TTL_S)
    worker = lease("speculator", SpeculatorFacts(model=ModelId("m"), file="m.gguf", sessions=2))
    await registry.put(worker.instance, msgspec.json.encode(worker))
    await registry.put("strange", b"{")
    metrics = await start(broker, tmp_path)
    for event in [*WHOLE_JOB, started("open"), accepted(0, 1, 1100, "open")]:
        tell(broker, event)
    await until(lambda: metrics.memory.sizes["stories"] == 2, "both jobs are heard")
    answer = await ask(broker, MetricsRequested())
    assert isinstance(answer, MetricsReported)
    for line in (
        'twd_tokens_generated_total{model="m"} 7.0',
        'twd_jobs_total{code="stop",model="m",outcome="finished"} 1.0',
        'twd_jobs_in_progress{model="m"} 1.0',
        'twd_sessions{model="m"} 2.0',
        'twd_leases{service="speculator",state="ready"} 1.0',
    ):
        assert line in answer.text.splitlines()
    await metrics.stop()
