"""Coordinators on a bus: one decides, another takes over, workers start on real agents."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.coordinator.machines import RPC, machine
from tests.engine.tiny_models import write_llama
from tests.waiting import until
from twd.agent.service import BEATS
from twd.bus.base import BusError
from twd.bus.memory.bus import MemoryBroker, MemoryBus
from twd.coordinator.links import connect_time
from twd.coordinator.service import CoordinatorService
from twd.coordinator.wanted import wanted_drafters
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, Service, ServiceContext
from twd.kit.tasks import every
from twd.settings.model import CoordinatorConfig, DrafterConfig, ModelConfig, PoolConfig, Settings
from twd.wire.base import Event, ModelId, NodeId
from twd.wire.codec import decode, encode
from twd.wire.node import (
    NodeChanged,
    NodeFacts,
    ProcessAnswered,
    ProcessFacts,
    ProcessKind,
    ProcessUnwanted,
    ProcessWanted,
)
from twd.wire.placement import PlacementDecided, placement_key
from twd.wire.routes import EVERYTHING, ROUTE_OF

StartCoordinator = Callable[..., Awaitable[CoordinatorService]]


def ctx(broker: MemoryBroker, node: str, seed: int) -> ServiceContext:
    return ServiceContext(broker.connect(node), NodeId(node), SystemClock(), Ids(random.Random(seed)))


class FakeAgent(Service):
    """A machine that does what it is asked."""

    name = "agent"
    reads = (ProcessWanted, ProcessUnwanted)
    writes = (NodeChanged, ProcessAnswered)

    def __init__(self, ctx: ServiceContext, facts: NodeFacts) -> None:
        super().__init__(ctx)
        self.machine = facts
        self.asked: list[Event] = []

    def pattern(self, event_type: type[Event]) -> str:
        return ROUTE_OF[event_type].pattern_for(node=self.ctx.node)

    async def setup(self) -> None:
        await self.keep_beating()

    async def keep_beating(self) -> None:
        await self.beat()
        self.tasks.start("beat", every(0.2, self.beat))

    async def beat(self) -> None:
        leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
        await leases.put(f"agent.{self.ctx.node}.claim", encode_facts(self.machine))

    def on_process_wanted(self, event: ProcessWanted, reply: Reply) -> Effects:
        self.asked.append(event)
        facts = ProcessFacts(process=event.process, kind=ProcessKind.RPC, state="ready", pid=1, port=50052)
        reply(ProcessAnswered(node=event.node, process=event.process, facts=facts))
        return None

    def on_process_unwanted(self, event: ProcessUnwanted, reply: Reply) -> Effects:
        self.asked.append(event)
        reply(ProcessAnswered(node=event.node, process=event.process))
        return None


def encode_facts(facts: NodeFacts) -> bytes:
    return msgspec.json.encode(facts)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def decisions(broker: MemoryBroker) -> list[PlacementDecided]:
    told: list[PlacementDecided] = []

    def hear(message: Any) -> None:
        event = decode(message.data)
        if isinstance(event, PlacementDecided):
            told.append(event)

    await broker.connect("ear").subscribe(EVERYTHING, hear)
    return told


@pytest.fixture
async def start(broker: MemoryBroker, tmp_path: Path) -> AsyncIterator[StartCoordinator]:
    started: list[CoordinatorService] = []
    path = write_llama(tmp_path / "tiny.gguf")

    async def start_one(node: str = "desk", mode: str = "combined", pool: PoolConfig = RPC) -> CoordinatorService:
        settings = Settings(
            mode=mode,  # type: ignore[arg-type]
            pool=pool,
            coordinator=CoordinatorConfig(lease_s=1.0),
            models={"tiny": ModelConfig(path=str(path), ctx_size=512, parallel=1)},
        )
        coordinator = CoordinatorService(ctx(broker, node, len(started)), settings)
        started.append(coordinator)
        await coordinator.start()
        return coordinator

    yield start_one
    for coordinator in started:
        await coordinator.stop("test ends")


async def test_one_decides_and_the_next_takes_over_when_it_leaves(start: StartCoordinator) -> None:
    first, second = await start(), await start("attic")
    assert (first.active, second.active) == (True, False)
    assert second.note == "stands by"
    await first.stop("leaves")
    await until(lambda: second.active, "the other takes over", 10)


async def test_one_that_falls_silent_is_replaced_and_stops_acting_before_that(
    start: StartCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await start()
    assert first._claim is not None

    async def away(value: bytes) -> bool:
        raise BusError("the bus is away for this one")

    monkeypatch.setattr(first._claim, "renew", away)
    second = await start("attic")
    both: list[bool] = []

    def taken_over() -> bool:
        both.append(first.active and second.active)
        return second.active

    await until(taken_over, "the other takes over", 10)
    assert not any(both)
    assert not first.active


async def test_the_next_one_acts_only_when_it_knows_what_the_last_one_decided(
    start: StartCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await start(), await start("attic")
    read, asked, may_go_on = second._decisions.before, list[bool](), asyncio.Event()

    async def slowly(models: Iterable[str]) -> dict[str, PlacementDecided]:
        asked.append(second.active)
        if len(asked) == 1:
            raise BusError("the registry has no leader yet")
        await may_go_on.wait()
        asked.append(second.active)
        return await read(models)

    monkeypatch.setattr(second._decisions, "before", slowly)
    await first.stop("leaves")
    await until(lambda: len(asked) > 1, "it reads them", 10)
    assert second.fault is None, "an answer that did not come is no fault"
    second._news.set()
    await until(lambda: not second._news.is_set(), "it has its turn")
    asked.append(second.active)
    may_go_on.set()
    await until(lambda: second.active, "the other takes over", 10)
    assert not any(asked)


async def test_what_was_decided_meanwhile_is_not_overwritten_with_what_was_decided_before(
    start: StartCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, kept = await start(), list[str]()
    decided = {name: PlacementDecided(model=ModelId(name), coordinator=coordinator.instance) for name in ("a", "b")}

    async def slowly(decision: PlacementDecided) -> None:
        kept.append(decision.basis)
        coordinator._observed.decided["b"] = msgspec.structs.replace(decided["b"], basis="new")

    monkeypatch.setattr(coordinator._decisions, "keep", slowly)
    coordinator._observed.decided = dict(decided)
    await coordinator._keep_decisions()
    assert kept == ["", "new"]


def test_no_silence_is_borne_for_longer_than_the_registry_remembers() -> None:
    longest = msgspec.convert({"lease_s": LEASE_TTL_S}, CoordinatorConfig)
    assert longest.lease_s / BEATS < LEASE_TTL_S, "an agent renews its key before that is forgotten"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"lease_s": LEASE_TTL_S + 1}, CoordinatorConfig)


async def test_a_pooled_model_gets_its_place_and_its_workers(
    broker: MemoryBroker, start: StartCoordinator, decisions: list[PlacementDecided]
) -> None:
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk", 0.2501))
    attic = FakeAgent(ctx(broker, "attic", 12), machine("attic", 4, gpu=24))
    await desk.start()
    await attic.start()
    await start()
    await until(lambda: attic.asked, "the far worker is asked for")
    (decision,) = decisions
    assert {piece.node for piece in decision.slices} == {"desk", "attic"}
    assert isinstance(attic.asked[0], ProcessWanted)
    assert desk.asked == []
    await desk.stop()
    await attic.stop()


async def test_two_agents_on_one_computer_are_planned_with_once(
    broker: MemoryBroker, start: StartCoordinator, decisions: list[PlacementDecided]
) -> None:
    sizes = {"desk": 0.2513, "attic": 0.6}
    both = [msgspec.structs.replace(machine(name, size), computer="one") for name, size in sizes.items()]
    agents = [FakeAgent(ctx(broker, facts.node, at), facts) for at, facts in enumerate(both, 11)]
    for agent in agents:
        await agent.start()
    coordinator = await start()
    await until(lambda: decisions, "it is decided")
    assert decisions[0].missing_bytes
    assert "attic and desk are one computer" in coordinator.note
    agents[1].machine = msgspec.structs.replace(both[1], computer="another")
    await until(lambda: not decisions[-1].missing_bytes, "they have room together", 10)
    assert "attic" in {piece.node for piece in decisions[-1].slices}
    for agent in agents:
        await agent.stop()


async def test_a_draft_model_is_run_by_an_agent_and_one_without_a_machine_is_told(
    broker: MemoryBroker, start: StartCoordinator, tmp_path: Path
) -> None:
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk"))
    await desk.start()
    path = str(write_llama(tmp_path / "quick.gguf"))
    drafters = (
        DrafterConfig(path=path, for_model="", threads=2, gpu_layers=0),
        DrafterConfig(path=path, name="far", node="attic"),
        DrafterConfig(url="http://127.0.0.1:1", name="server"),
        DrafterConfig(path=path, name="resting", for_model="b"),
    )
    models = {name: ModelConfig(path=str(tmp_path / "tiny.gguf"), serve=name == "a") for name in ("a", "b")}
    settings = Settings(mode="combined", pool=RPC, models=models, drafters=drafters)
    assert wanted_drafters(msgspec.structs.replace(settings, mode="speculate")) == ()
    coordinator = CoordinatorService(ctx(broker, "desk", 5), settings)
    await coordinator.start()
    await until(lambda: desk.asked, "the drafter is asked for")
    (wish,) = desk.asked
    assert isinstance(wish, ProcessWanted)
    assert wish.drafter is not None
    assert (wish.kind, wish.threads) == (ProcessKind.DRAFTER, 2)
    assert (wish.drafter.name, wish.drafter.path, wish.drafter.gpu_layers) == ("quick", path, "0")
    await until(lambda: "drafter far: its machine attic is not on the bus" in coordinator.note, "the other is told")
    await coordinator.stop()
    await desk.stop()


async def test_without_a_pool_nothing_is_decided(
    broker: MemoryBroker, start: StartCoordinator, decisions: list[PlacementDecided]
) -> None:
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk"))
    await desk.start()
    coordinator = await start(mode="speculate")
    await until(lambda: coordinator._observed.nodes, "the machine was seen")
    await coordinator._turn()
    assert coordinator._observed.decided == {}
    assert (decisions, desk.asked) == ([], [])
    await desk.stop()


async def test_an_unreadable_model_has_no_place_and_says_why(
    broker: MemoryBroker, start: StartCoordinator, decisions: list[PlacementDecided], tmp_path: Path
) -> None:
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk"))
    await desk.start()
    (tmp_path / "tiny.gguf").write_bytes(b"no model")
    settings = Settings(mode="combined", models={"tiny": ModelConfig(path=str(tmp_path / "tiny.gguf"))})
    coordinator = CoordinatorService(ctx(broker, "desk", 5), settings)
    await coordinator.start()
    await until(lambda: decisions, "it is told")
    assert "not a GGUF file" in decisions[0].notes[0]
    await coordinator.stop()
    await desk.stop()


def over_a_pool(ctx: ServiceContext, *paths: Path) -> CoordinatorService:
    models = {path.parent.name: ModelConfig(path=str(path), ctx_size=512, parallel=1) for path in paths}
    wanted = Settings(mode="combined", pool=RPC, coordinator=CoordinatorConfig(lease_s=1.0), models=models)
    return CoordinatorService(ctx, wanted)


async def test_one_that_cannot_read_a_model_leaves_the_decisions_to_one_that_can(
    broker: MemoryBroker, decisions: list[PlacementDecided], tmp_path: Path
) -> None:
    for folder in ("here", "gone", "there/gone"):
        (tmp_path / folder).mkdir(parents=True)
    here, gone = write_llama(tmp_path / "here" / "tiny.gguf"), tmp_path / "gone" / "tiny.gguf"
    there = write_llama(tmp_path / "there" / "gone" / "tiny.gguf")
    attic = FakeAgent(ctx(broker, "attic", 12), machine("attic"))
    await attic.start()
    first = over_a_pool(ctx(broker, "desk", 1), here, gone)
    second = over_a_pool(ctx(broker, "attic", 2), here, there)
    await first.start()
    assert first.active
    await second.start()
    both: list[bool] = []

    def taken_over() -> bool:
        both.append(first.active and second.active)
        return second.active

    await until(taken_over, "the other takes over", 10)
    assert not any(both)
    why = "stands by: attic can plan more models; gone cannot be read here"
    await until(lambda: first.note == why, "the first one says so")
    placed = {"here", "gone"}
    await until(lambda: {told.model for told in decisions if not told.missing_bytes} == placed, "both have a place", 10)
    await second.stop("leaves")
    await until(lambda: first.active, "half of it is better than nothing", 10)
    await first.stop()
    await attic.stop()


async def test_a_file_that_could_not_be_read_is_read_when_it_is_there(
    broker: MemoryBroker, decisions: list[PlacementDecided], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.coordinator.service.READ_AGAIN_S", 0.01)
    (tmp_path / "late").mkdir()
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk"))
    await desk.start()
    coordinator = over_a_pool(ctx(broker, "desk", 1), tmp_path / "late" / "tiny.gguf")
    await coordinator.start()
    await until(lambda: decisions, "it has no place yet")
    assert decisions[0].missing_bytes
    write_llama(tmp_path / "late" / "tiny.gguf")
    await until(lambda: not decisions[-1].missing_bytes, "it has one now", 10)
    await coordinator.stop()
    await desk.stop()


async def test_a_port_where_nobody_is_has_no_link() -> None:
    assert await connect_time("127.0.0.1", 1) is None
    assert await connect_time("rig..lan", 1) is None, "nobody can be called so"


async def test_an_agent_that_did_not_listen_yet_is_asked_again_as_soon_as_it_does(
    broker: MemoryBroker, start: StartCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twd.coordinator.core.process_reconciler.RETRY_S", 3600.0)
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk", 0.2501))
    attic = FakeAgent(ctx(broker, "attic", 12), machine("attic", 4, gpu=24))
    await desk.start()
    await attic.keep_beating()
    coordinator = await start()
    await until(lambda: bool(coordinator._unheard), "nobody hears the wish")
    await attic.start()
    await until(lambda: bool(attic.asked), "it is asked again")
    assert not coordinator._unheard
    await desk.stop()
    await attic.stop()


async def test_the_next_coordinator_leaves_what_stands_as_it_is(
    broker: MemoryBroker, start: StartCoordinator, decisions: list[PlacementDecided]
) -> None:
    desk = FakeAgent(ctx(broker, "desk", 11), machine("desk", 8))
    await desk.start()
    first = await start()
    await until(lambda: bool(decisions), "it is decided")
    leases = await desk.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    await first.stop("leaves")
    marked = msgspec.structs.replace(decisions[-1], plain_tok_s=123.0)
    await leases.put(placement_key("tiny"), encode(marked))
    second = await start("attic")
    await until(lambda: bool(second._observed.nodes), "it looks", 10)
    asked = len(desk.asked)
    await second._turn()
    assert second._observed.decided["tiny"].plain_tok_s == 123.0
    assert len(desk.asked) == asked
    desk.machine = machine("desk", 16)
    await desk.beat()
    await until(lambda: second._observed.decided["tiny"].plain_tok_s != 123.0, "another machine is another matter", 10)
    await desk.stop()


async def test_a_broker_that_forgot_the_machines_moves_no_model(
    broker: MemoryBroker, start: StartCoordinator, decisions: list[PlacementDecided]
) -> None:
    agents = [FakeAgent(ctx(broker, name, at), machine(name, 0.2501 + at)) for at, name in enumerate(("desk", "attic"))]
    for agent in agents:
        await agent.start()
    coordinator = await start()
    await until(lambda: decisions, "it is decided")
    leases = await agents[0].bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    for agent in agents:
        await agent.stop()
    for each in agents:
        await leases.delete(f"agent.{each.ctx.node}.claim")
    assert isinstance(coordinator.bus, MemoryBus)
    coordinator.bus.cut_off = True
    coordinator.bus.cut_off = False
    assert set(await coordinator._nodes()) == {"desk", "attic"}
    await coordinator._turn()
    assert len(decisions) == 1
