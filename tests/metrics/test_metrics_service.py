"""The metrics service on a bus: it hears broadcasts, answers questions, and is in nobody's way."""

import random

import msgspec
import pytest

from tests.waiting import until
from twd.bus.base import NoResponders
from twd.bus.memory_bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Surroundings
from twd.kit.settings import Settings
from twd.metrics.service import Metrics
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.codec import decode, encode
from twd.wire.draft import SessionOpened
from twd.wire.job import FinishReason, JobFinished, JobStarted, JobStats, JobSubmitted, Prompt
from twd.wire.model import VocabFingerprint
from twd.wire.routes import subject_of
from twd.wire.trace import HistoryReported, HistoryRequested, TraceReported, TraceRequested

JOB, SESSION, MODEL = JobId("j"), SessionId("s"), ModelId("m")


async def start(broker: MemoryBroker) -> Metrics:
    ground = Surroundings(broker.connect("desk"), NodeId("desk"), SystemClock(), Ids(random.Random(1)))
    metrics = Metrics(ground, Settings())
    await metrics.start()
    return metrics


def tell(broker: MemoryBroker, event: Event) -> None:
    broker.connect("other").publish(subject_of(event), encode(event))


async def ask(broker: MemoryBroker, event: Event) -> object:
    return decode(await broker.connect("cli").request(subject_of(event), encode(event), timeout_s=5))


async def test_a_job_is_remembered_without_its_prompt() -> None:
    broker = MemoryBroker()
    metrics = await start(broker)
    tell(broker, JobStarted(job=JOB, attempt=1, session=SESSION, model=MODEL, prompt_tokens=3))
    opened = SessionOpened(
        job=JOB,
        session=SESSION,
        model=MODEL,
        speculator=InstanceId("sp"),
        node=NodeId("n"),
        tokens=[1, 2, 3],
        vocab=VocabFingerprint(hash="h", tokens=4),
    )
    tell(broker, opened)
    tell(broker, JobFinished(job=JOB, attempt=1, reason=FinishReason.STOP, stats=JobStats()))
    await until(lambda: metrics.memory.sizes["ended"], "the end is heard")

    answer = await ask(broker, TraceRequested(job=JOB))
    assert isinstance(answer, TraceReported)
    events = [decode(bytes(raw)) for raw in answer.events]
    assert [type(event) for event in events] == [JobStarted, SessionOpened, JobFinished]
    assert events[1] == msgspec.structs.replace(opened, tokens=[], text="")

    history = await ask(broker, HistoryRequested())
    assert isinstance(history, HistoryReported)
    assert len(history.events) == 1
    await metrics.stop()


async def test_nobody_home_stays_visible_to_who_asks() -> None:
    broker = MemoryBroker()
    metrics = await start(broker)
    job = JobSubmitted(job=JOB, model=MODEL, owner=InstanceId("o"), prompt=Prompt(text="hi"))
    with pytest.raises(NoResponders):
        await ask(broker, job)
    await metrics.stop()


async def test_an_unknown_job_has_an_empty_story() -> None:
    broker = MemoryBroker()
    metrics = await start(broker)
    answer = await ask(broker, TraceRequested(job=JobId("never")))
    assert isinstance(answer, TraceReported)
    assert answer.events == []
    await metrics.stop()


async def test_nonsense_is_counted() -> None:
    broker = MemoryBroker()
    metrics = await start(broker)
    broker.connect("other").publish("twd.v1.job.started.j", b"{")
    await until(lambda: metrics.unread, "nonsense is heard")
    assert metrics.facts()["unread"] == 1
    await metrics.stop()
