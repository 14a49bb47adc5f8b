"""The shape of a service: declared, started, faulted, stopped."""

import asyncio
import random

import msgspec
import pytest

from twd.bus.base import PAYLOAD_BYTES_MAX, BusMessage, RequestTimeout
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.kit.clock import SystemClock
from twd.kit.effects import Publish
from twd.kit.ids import Ids
from twd.kit.messages.heard_events import handler_name
from twd.kit.messages.reply_decoding import NotUnderstood
from twd.kit.service import LEASE_BUCKET, Effects, Reply, Service, ServiceContext
from twd.wire.base import Event, EventId, InstanceId, JobId, ModelId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.job import JobCancelled, JobQueued, JobSubmitted, Prompt
from twd.wire.routes import EVERYTHING, ROUTE_OF
from twd.wire.service import MessageDropped, MessageRejected, ServiceFaulted, ServiceStarted, ServiceStopped

OWNER = InstanceId("edge.n.o")
SUBMITTED = "twd.v1.job.submitted.edge.n.o"
CANCELLED = "twd.v1.job.cancelled.edge.n.o"


class Echo(Service):
    """Queues what is submitted; a cancelled job named `bad` is a fault."""

    name = "echo"
    reads = (JobSubmitted, JobCancelled)
    writes = (JobQueued,)

    def on_job_submitted(self, event: JobSubmitted, reply: Reply) -> Effects:
        reply(JobQueued(job=event.job, attempt=1, speculator=self.instance))
        return None

    def on_job_cancelled(self, event: JobCancelled) -> Effects:
        if event.job == "bad":
            raise ValueError("planted")
        return [Publish(JobQueued(job=event.job, attempt=1, speculator=self.instance))]


def ctx(broker: MemoryBroker) -> ServiceContext:
    return ServiceContext(bus=broker.connect("n"), node=NodeId("n"), clock=SystemClock(), ids=Ids(random.Random(1)))


async def listen(broker: MemoryBroker) -> list[Event]:
    heard: list[Event] = []

    def take(message: object) -> None:
        event = decode(message.data)  # type: ignore[attr-defined]
        assert isinstance(event, Event)
        heard.append(event)

    await broker.connect("watcher").subscribe(EVERYTHING, take)
    return heard


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def submit() -> JobSubmitted:
    return JobSubmitted(job=JobId("j"), model=ModelId("m"), owner=OWNER, prompt=Prompt(text="hi"), source=OWNER)


async def test_answers_requests_and_names_the_cause() -> None:
    broker = MemoryBroker()
    service = Echo(ctx(broker))
    await service.start()
    answer = decode(await broker.connect().request(f"{SUBMITTED}.m", encode(submit()), timeout_s=1))
    assert isinstance(answer, JobQueued)
    assert answer.source == service.instance
    await service.stop()


async def test_what_is_too_long_for_the_broker_is_no_fault() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    long = JobId("j" * PAYLOAD_BYTES_MAX)
    asked = BusMessage(f"{SUBMITTED}.m", b"", "_INBOX.edge.n.1")
    service._replier(asked, EventId("cause"))(JobQueued(job=long, attempt=1, speculator=service.instance))
    service.emit(JobQueued(job=long, attempt=1, speculator=service.instance))
    await settle()
    assert service.fault is None
    assert [type(event) for event in heard] == [ServiceStarted]
    await service.stop()


async def test_life_is_told_and_the_lease_goes() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    leases = await broker.connect().leases(LEASE_BUCKET, 10)
    assert [entry.key for entry in await leases.entries()] == [service.instance]
    await service.drain()
    await settle()
    assert [type(event) for event in heard] == [ServiceStarted, ServiceStopped]
    assert await leases.entries() == []


async def test_who_lost_the_bus_stands_in_an_empty_registry_as_soon_as_it_is_back() -> None:
    broker = MemoryBroker()
    context = ctx(broker)
    service = Echo(context)
    await service.start()
    leases = await broker.connect().leases(LEASE_BUCKET, 10)
    assert isinstance(context.bus, MemoryBus)
    context.bus.cut_off = True
    await leases.delete(service.instance)
    context.bus.cut_off = False
    await settle()
    assert [entry.key for entry in await leases.entries()] == [service.instance]
    await service.stop()
    context.bus.cut_off = True
    context.bus.cut_off = False
    await settle()
    assert await leases.entries() == []


async def test_a_fault_is_published_and_ends_the_service() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    event = JobCancelled(job=JobId("bad"), source=OWNER)
    broker.connect().publish(f"{CANCELLED}.bad", encode(event))
    await asyncio.wait_for(service.ended.wait(), 5)
    await settle()
    assert isinstance(service.fault, ValueError)
    faults = [event for event in heard if isinstance(event, ServiceFaulted)]
    assert "planted" in faults[0].failure.message
    assert isinstance(heard[-1], ServiceStopped)


async def test_nonsense_is_counted_and_told_without_a_flood() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    stranger = broker.connect()
    for _ in range(9):
        stranger.publish(f"{CANCELLED}.x", b"{")
    stranger.publish(f"{CANCELLED}.x", b'{"type":"twd.v1.job.cancelled","job":5}')
    await settle()
    rejected = [event.repeated for event in heard if isinstance(event, MessageRejected)]
    assert rejected == [1, 2, 4, 8]
    assert service.unread.rejected[f"{CANCELLED}.x"] == 10
    await service.stop()


async def test_a_request_that_cannot_be_read_is_answered_with_the_reason() -> None:
    broker = MemoryBroker()
    service = Echo(ctx(broker))
    await service.start()
    answer = decode(await broker.connect().request(f"{SUBMITTED}.m", b'{"job":5}', timeout_s=1))
    assert isinstance(answer, MessageRejected)
    assert (answer.subject, answer.size_bytes, answer.source) == (f"{SUBMITTED}.m", 9, service.instance)
    assert "`$.job`" in answer.reason
    await service.stop()


@pytest.mark.parametrize("source", ["", "edge.n.other", "edge.m.o", "speculator.n.o"])
async def test_an_event_whose_subject_names_another_source_is_left_aside(source: str) -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    event = JobCancelled(job=JobId("bad"), source=InstanceId(source))
    broker.connect().publish(f"{CANCELLED}.bad", encode(event))
    broker.connect().publish(f"{CANCELLED}.x", encode(JobCancelled(job=JobId("bad"), source=OWNER)))
    await settle()
    assert service.fault is None
    assert [event.subject for event in heard if isinstance(event, MessageRejected)] == [
        f"{CANCELLED}.bad",
        f"{CANCELLED}.x",
    ]
    await service.stop()


async def test_who_says_that_another_stopped_is_not_believed() -> None:
    route = ROUTE_OF[ServiceStopped]
    event = ServiceStopped(service="speculator", node=NodeId("m"), source=InstanceId("drafter.n.x"))
    assert route.disagreement(route.subject(event), event)
    assert not route.disagreement(route.subject(event), msgspec.structs.replace(event, node=NodeId("n")))


@pytest.mark.parametrize("inbox", ["_INBOX.edge.m.1", "_INBOX.relay.n.1", "_INBOX.1", "twd.v1.tokens.accepted", ""])
async def test_an_answer_goes_to_who_asked_and_nowhere_else(inbox: str) -> None:
    broker = MemoryBroker()
    service = Echo(ctx(broker))
    await service.start()
    said: list[str] = []
    broker.observers.append(lambda node, message: said.append(message.subject))
    stranger = broker.connect()
    stranger.publish(f"{SUBMITTED}.m", encode(submit()), reply=inbox)
    stranger.publish(f"{SUBMITTED}.m", encode(submit()), reply="_INBOX.edge.n.1")
    await settle()
    assert said[2:] == ["_INBOX.edge.n.1"]
    await service.stop()


async def test_only_requests_are_answered() -> None:
    broker = MemoryBroker()
    service = Echo(ctx(broker))
    await service.start()
    with pytest.raises(RequestTimeout):
        await broker.connect().request(f"{CANCELLED}.x", b"{", timeout_s=0.01)
    await service.stop()


async def test_whoever_asked_in_vain_hears_so_at_once() -> None:
    broker = MemoryBroker()
    reader, asker = Echo(ctx(broker)), Echo(ctx(broker))
    await reader.start()
    await asker.start()
    wrong = msgspec.structs.replace(submit(), deadline_ms=0)
    with pytest.raises(NotUnderstood, match=r"deadline_ms") as refused:
        await asker.ask(wrong)
    assert not refused.value.failure.retry
    told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    asker.ask_then(wrong, told.set_result)
    assert isinstance(await asyncio.wait_for(told, 1), NotUnderstood)
    await asker.stop()
    await reader.stop()


async def test_drops_are_told_by_the_subject_that_lost_them() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    lost = service.bus.stats.dropped_by_subject
    lost["often"] = 9
    await service._renew()
    lost["now"] = 2
    await service._renew()
    await service._renew()
    await settle()
    told = [(event.subject, event.count) for event in heard if isinstance(event, MessageDropped)]
    assert told == [("often", 9), ("now", 2)]
    await service.stop()


class SlowStart(Echo):
    """Sets up until it is told to go on."""

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.go_on = asyncio.Event()
        self.torn_down = 0

    async def setup(self) -> None:
        await self.go_on.wait()

    async def teardown(self) -> None:
        self.torn_down += 1


async def test_a_service_told_to_stop_while_it_sets_up_never_appears() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = SlowStart(ctx(broker))
    starting = asyncio.ensure_future(service.start())  # noqa: TID251
    await settle()
    await service.drain()
    service.go_on.set()
    await asyncio.wait_for(starting, 5)
    await settle()
    assert heard == []
    assert service.torn_down == 2
    assert len(broker.interest.in_subject(f"{SUBMITTED}.m").groups) == 0
    assert await (await broker.connect().leases(LEASE_BUCKET, 10)).entries() == []


class NeverIdle(Echo):
    """Waits for ever for its work to end."""

    async def quiesce(self) -> None:
        await asyncio.Event().wait()


async def test_a_drain_ends_with_a_service_that_faults_meanwhile() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = NeverIdle(ctx(broker))
    await service.start()
    draining = asyncio.ensure_future(service.drain(timeout_s=1000))  # noqa: TID251
    await settle()
    service.fail(ValueError("planted"), "elsewhere")
    await asyncio.wait_for(draining, 5)
    await settle()
    assert isinstance(heard[-1], ServiceStopped)
    assert service.tasks.names == []


async def test_a_drain_that_takes_too_long_stops_with_work_in_hand() -> None:
    service = NeverIdle(ctx(MemoryBroker()))
    await service.start()
    await asyncio.wait_for(service.drain(timeout_s=0.01), 5)
    assert service.ended.is_set()


async def test_an_undeclared_event_is_a_programming_error() -> None:
    service = Echo(ctx(MemoryBroker()))
    await service.start()
    with pytest.raises(AssertionError, match="does not declare"):
        service.emit(JobCancelled(job=JobId("j")))
    await service.stop()


async def test_a_stopped_service_is_silent() -> None:
    broker = MemoryBroker()
    heard = await listen(broker)
    service = Echo(ctx(broker))
    await service.start()
    await service.stop()
    await settle()
    before = len(heard)
    service.emit(JobQueued(job=JobId("j"), attempt=1, speculator=service.instance))
    broker.connect().publish("twd.v1.job.cancelled.j", encode(JobCancelled(job=JobId("j"))))
    await settle()
    assert [type(event) for event in heard[before:]] == [JobCancelled]


def test_handler_names_follow_event_names() -> None:
    assert handler_name(JobSubmitted) == "on_job_submitted"
