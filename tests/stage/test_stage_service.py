"""A stage on the bus: it says what it holds, is wired by a request, tells how its ring goes, leaves in good order."""

import asyncio
import logging
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import pytest

from tests.ring.fake_slices import LAYERS, FakeSlice, fake_text
from tests.ring.rings import HOME, WAIT_S
from tests.ring.test_fake_rings import PROMPT, spec
from tests.signed import signed
from tests.waiting import until
from twd.bus.base import BusMessage
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.kit.clock import LoopClock
from twd.kit.exit_codes import ExitCode, exit_code_of
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.ring.driver import RingDriver
from twd.ring.frames import Open, PassFrame, PassResults, WindowItem
from twd.ring.links import ProbePace
from twd.ring.trust import LinkIdentity, RingTrust, make_identity, ring_nonce
from twd.ring.wiring import wirings
from twd.stage.loaded import LoadedSlice
from twd.stage.server import HeldSlice, LinkRules
from twd.stage.service import StageAddress, StageService
from twd.stage.timing import measure
from twd.wire.base import Event, InstanceId, ModelId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.workers import StageFacts
from twd.wire.model import ModelFailed, ModelLoading
from twd.wire.ring import (
    FrameRefused,
    RingMeasured,
    StageAnswered,
    StageGone,
    StageReady,
    StateFormat,
)
from twd.wire.routes import subject_of
from twd.wire.service import Health, ServiceFaulted, ServiceLease, ServiceStarted, read_lease

E = TypeVar("E", bound=Event)
PACE = ProbePace(0.1, 5.0)


def loaded(first: int, end: int) -> LoadedSlice:
    """A slice of the fake model, timed."""
    engine = FakeSlice(first, end, head=end == LAYERS)
    held = HeldSlice(ModelId("fake"), "f4ke", first, end, LAYERS, end == LAYERS)
    return LoadedSlice(held, engine, measure(engine, held), "fake build", "exact", 5)


@dataclass
class World:
    """A bus with two stages on it, and what was told there."""

    broker: MemoryBroker
    bus: MemoryBus
    stages: list[StageService] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    identity: LinkIdentity = field(default_factory=lambda: make_identity(HOME))

    def hear(self, message: BusMessage) -> None:
        event = decode(message.data)
        assert isinstance(event, Event)
        self.told.append(event)

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.told if isinstance(event, kind)]

    async def add(self, load: Callable[..., LoadedSlice], address: StageAddress = StageAddress(port=0)) -> StageService:  # noqa: B008
        node = f"n{len(self.stages)}"
        ctx = ServiceContext(
            bus=self.broker.connect(node),
            node=NodeId(node),
            clock=LoopClock(),
            ids=Ids(random.Random(node)),
            log=logging.getLogger("stages"),
        )
        stage = StageService(ctx, ModelId("fake"), load, address, LinkRules(pace=PACE))
        self.stages.append(stage)
        await stage.start()
        await asyncio.wait_for(stage.settled.wait(), WAIT_S)
        return stage

    def ready(self) -> list[StageReady]:
        """The stages in ring order."""
        return sorted(self.all(StageReady), key=lambda one: one.first)

    async def wire(self, ready: list[StageReady]) -> tuple[RingTrust, list[StageAnswered]]:
        trust = RingTrust(f"r{random.random()}", ring_nonce())
        answers = []
        for wired in wirings(ready, trust, HOME, self.identity.certificate, StateFormat.F32):
            answer = decode(await self.bus.request(subject_of(signed(wired)), encode(signed(wired))))
            assert isinstance(answer, StageAnswered)
            answers.append(answer)
        return trust, answers

    async def go_home(self) -> RingDriver:
        ready = self.ready()
        trust, answers = await self.wire(ready)
        assert [answer.failure for answer in answers] == [None] * len(ready)
        end = time.monotonic() + WAIT_S
        return await asyncio.to_thread(RingDriver.connect, ready, trust, self.identity, HOME, end, PACE)

    async def lease(self, stage: StageService) -> ServiceLease:
        entry = await (await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)).get(stage.instance)
        assert entry is not None
        lease = read_lease(entry.value, entry.key)
        assert lease is not None
        return lease


@pytest.fixture
async def world() -> AsyncIterator[World]:
    broker = MemoryBroker(1)
    world = World(broker, broker.connect("test"))
    await world.bus.subscribe("twd.v1.>", world.hear)
    yield world
    for stage in world.stages:
        await stage.stop()
    assert world.all(ServiceFaulted) == []


async def two(world: World) -> None:
    await world.add(lambda progress: loaded(0, 5))
    await world.add(lambda progress: loaded(5, LAYERS))
    await until(lambda: len(world.all(StageReady)) == 2)


def ask(home: RingDriver, items: list[WindowItem]) -> PassResults:
    home.send(PassFrame(1, items))
    return home.answers(WAIT_S)[0].verdicts


async def test_stages_say_what_they_hold_to_all_and_to_those_who_come_later(world: World) -> None:
    await two(world)
    first, last = world.ready()
    assert (first.first, first.end, first.head, last.end, last.head) == (0, 5, False, LAYERS, True)
    assert (first.layers, first.slots, first.node, first.file_hash) == (LAYERS, 4, "n0", "f4ke")
    assert first.cost[0].ms > 0
    assert first.layer_ms > 0
    lease = await world.lease(world.stages[0])
    facts = lease.told(StageFacts)
    assert facts is not None
    assert msgspec.structs.replace(first, id="", cause="", source="", at_ms=0) == facts.slice
    assert (lease.health, facts.ring) == (Health.OK, "")


async def test_a_ring_wired_over_the_bus_speaks_and_is_measured(world: World) -> None:
    await two(world)
    home = await world.go_home()
    home.send(Open(0, spec()))
    verdicts = await asyncio.to_thread(ask, home, [WindowItem(0, 1, 0, PROMPT, len(PROMPT))])
    assert verdicts.outcomes[0].tokens == fake_text(PROMPT, 1)
    await until(lambda: sum(event.passes for event in world.all(RingMeasured)) >= 2)
    by_stage = {event.index: event for event in world.all(RingMeasured) if event.passes}
    assert [by_stage[index].rows for index in (0, 1)] == [len(PROMPT)] * 2
    assert (by_stage[0].kept, by_stage[1].kept) == (0, len(PROMPT))
    assert [hop.to for hop in by_stage[0].hops] == ["home", "next"]
    assert world.stages[0].facts().sessions == 1
    home.close()
    assert home.join()


async def test_a_wiring_that_does_not_fit_is_answered_with_the_reason(world: World) -> None:
    await two(world)
    first, last = world.ready()
    _, answers = await world.wire([msgspec.structs.replace(first, file_hash="another"), last])
    assert answers[0].failure is not None
    assert "another file" in answers[0].failure.message
    assert answers[1].failure is None


async def test_nonsense_on_a_link_becomes_an_event(world: World) -> None:
    await two(world)
    home = await world.go_home()
    home.send(PassResults(1))
    await until(lambda: bool(world.all(FrameRefused)))
    event = world.all(FrameRefused)[0]
    assert (event.fault, event.stage, event.repeated) == ("unexpected", world.stages[0].instance, 1)
    await until(lambda: home.over is not None)
    assert home.join()
    again = await world.go_home()
    again.close()
    assert again.join()


async def test_a_slice_that_cannot_be_loaded_is_told_and_its_stage_ends(world: World) -> None:
    def fails(progress: Callable[[float, str], None]) -> LoadedSlice:
        progress(0.5, "reading weights")
        raise TwdError(FailureCode.MODEL_LOAD, "the file is damaged")

    stage = await world.add(fails)
    await until(lambda: bool(world.all(ModelFailed)))
    assert world.all(ModelFailed)[0].failure.message == "the file is damaged"
    assert world.all(ModelLoading)[0].progress == 0.5
    assert stage.health is Health.DEGRADED
    await asyncio.wait_for(stage.ended.wait(), WAIT_S)
    assert isinstance(stage.fault, TwdError)
    assert exit_code_of(stage.fault.code) is ExitCode.CANNOT_START


async def test_a_stage_that_loads_gets_no_place_in_a_ring(world: World) -> None:
    release = threading.Event()

    def waits(progress: Callable[[float, str], None]) -> LoadedSlice:
        release.wait(WAIT_S)
        return loaded(0, LAYERS)

    async with asyncio.TaskGroup() as group:
        group.create_task(world.add(waits))
        await until(lambda: bool(world.all(ServiceStarted)))
        told = StageReady(
            stage=InstanceId(world.stages[0].instance),
            node=NodeId("n0"),
            model=ModelId("fake"),
            file_hash="f4ke",
            first=0,
            end=LAYERS,
            layers=LAYERS,
            head=True,
            host="127.0.0.1",
            port=1,
            certificate=world.identity.certificate,
        )
        _, answers = await world.wire([told])
        assert answers[0].failure is not None
        assert answers[0].failure.code is FailureCode.NOBODY_HOME
        release.set()


async def test_a_port_that_is_taken_is_told(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        await world.add(lambda progress: loaded(0, LAYERS), StageAddress(port=taken.getsockname()[1]))
        await until(lambda: bool(world.all(ModelFailed)))
    assert "cannot listen" in world.all(ModelFailed)[0].failure.message


async def test_a_stage_that_leaves_says_so_and_home_hears_it(world: World) -> None:
    await two(world)
    home = await world.go_home()
    home.send(Open(0, spec()))
    await asyncio.to_thread(ask, home, [WindowItem(0, 1, 0, PROMPT, len(PROMPT))])
    engine = world.stages[1]._server.engine if world.stages[1]._server else None
    async with asyncio.TaskGroup() as group:
        group.create_task(world.stages[1].drain(0.3))
        await until(lambda: world.stages[1].health is Health.DRAINING)
        _, answers = await world.wire(world.ready()[1:])
        assert answers[0].failure is not None
    assert [event.stage for event in world.all(StageGone)] == [world.stages[1].instance]
    await until(lambda: home.over is not None)
    assert isinstance(engine, FakeSlice)
    assert engine.closed
    assert home.join()


async def test_an_engine_that_breaks_ends_its_stage(world: World) -> None:
    await two(world)
    home = await world.go_home()
    server = world.stages[0]._server
    assert server is not None
    assert isinstance(server.engine, FakeSlice)

    def breaks(rows: object) -> None:
        raise MemoryError("no more")

    server.engine.before = breaks
    home.send(Open(0, spec()))
    home.send(PassFrame(1, [WindowItem(0, 1, 0, PROMPT, len(PROMPT))]))
    await asyncio.wait_for(world.stages[0].ended.wait(), WAIT_S)
    await until(lambda: bool(world.all(ServiceFaulted)))
    assert "no more" in world.all(ServiceFaulted)[0].failure.message
    world.told.clear()
    await until(lambda: home.over is not None)
    assert home.join()
