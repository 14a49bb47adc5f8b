"""A pooled model on a bus in memory: what it waits for, when it comes back, when it goes elsewhere."""

import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.coordinator.machines import machine
from tests.signed import signed
from tests.sim.engines import PlayedModel
from tests.speculator.fakes import job
from tests.speculator.targets.pooled import ATTIC, BOTH, CELLAR, DESK, decided, piece, with_worker
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.settings.model import PoolConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.decode_watchdog import UNKNOWN_S, PassTimes
from twd.speculator.targets.loaded import Load
from twd.speculator.targets.pool import LOOK_S, SUSPECT_S, PoolSource
from twd.speculator.targets.pool_core import (
    PoolAssembly,
    pass_deadline_s,
)
from twd.wire.base import Event, JobId, ModelId, SessionId
from twd.wire.codec import encode
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import NodeChanged, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, placement_key
from twd.wire.routes import subject_of


class House:
    """A bus, leases on it, and one pooled speculator."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.codes: list[int] = []
        self.loads = 0
        self.refusal = ""
        ctx = ServiceContext(self.broker.connect("desk"), DESK, SystemClock(), Ids(random.Random(1)))
        settings = Settings(mode="combined", pool=PoolConfig(engine="rpc"))
        self.source = PoolSource(settings, "m", self.assembled, self.codes.append)
        self.speculator = SpeculatorService(ctx, ModelId("m"), self.source)

    async def assembled(self, assembly: PoolAssembly) -> Load:
        if self.refusal:
            raise TwdError(FailureCode.BACKEND_DOWN, self.refusal)
        self.loads += 1
        return lambda progress: PlayedModel()

    async def put(self, key: str, value: bytes) -> None:
        leases = await self.broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
        await leases.put(key, value)

    async def decide(self, placement: PlacementDecided) -> None:
        await self.put(placement_key("m"), encode(placement))

    async def tell(self, *nodes: NodeFacts) -> None:
        for facts in nodes:
            await self.put(f"agent.{facts.node}.claim", msgspec.json.encode(facts))

    async def emit(self, event: Event) -> None:
        bus = self.broker.connect("teller")
        bus.publish(subject_of(signed(event)), encode(signed(event)))
        await bus.flush()

    async def settled(self, note: str) -> None:
        await until(lambda: note in self.speculator.note, f"{note!r} is told, not {self.speculator.note!r}")

    async def loaded(self) -> None:
        await until(lambda: self.speculator.loaded is not None, "it is loaded")


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr("twd.speculator.targets.pool.crowding", lambda: 1.0)
    monkeypatch.setattr("twd.speculator.targets.pool.LOOK_S", 0.05)
    house = House()
    await house.speculator.start()
    yield house
    await house.speculator.stop("test ends")


async def test_it_says_what_it_waits_for_and_loads_when_all_is_there(house: House) -> None:
    await house.settled("waits for the coordinator's decision")
    await house.decide(BOTH)
    await house.tell(with_worker("attic"), machine("cellar"))
    await house.settled("waits for cellar's worker")
    house.refusal = "no RPC worker can be used at 127.0.0.1:5001: it hangs"
    await house.tell(with_worker("cellar", port=5002))
    await house.settled("it hangs")
    house.refusal = ""
    await house.loaded()
    facts = house.speculator.facts()
    assert facts.pool == ["desk/CPU layers 0-1, head", "attic/CPU layers 2-9", "cellar/CPU layers 10-19"]
    assert [(link.to, link.rtt_ms) for link in facts.links] == [("attic", 2.0), ("cellar", 0.0)]
    assert house.codes == []


async def test_it_comes_back_when_a_worker_is_another_one(house: House) -> None:
    await house.decide(BOTH)
    await house.tell(with_worker("attic"), with_worker("cellar"))
    await house.loaded()
    await house.tell(with_worker("cellar", pid=9))
    await until(lambda: house.codes, "it ends")
    assert house.codes == [ExitCode.WORKER_LOST]


async def test_it_goes_elsewhere_when_that_is_decided_and_all_is_there(house: House) -> None:
    await house.decide(BOTH)
    await house.tell(with_worker("attic"), with_worker("cellar"))
    await house.loaded()
    await house.decide(decided(missing_bytes=5, notes=["5 bytes of memory are missing"]))
    await house.decide(decided(piece(DESK, 0, 0, head=True), piece(ATTIC, 0, 20)))
    await until(lambda: house.codes, "it ends")
    assert house.codes == [ExitCode.WORKER_LOST]


class HungEngine:
    """A runner whose pass began long ago, or that rests."""

    def __init__(self) -> None:
        self.busy_since: float | None = None
        self.busy_rows = 1
        self.pace = PassTimes()


def hang(house: House, since: float) -> None:
    engine = HungEngine()
    engine.busy_since = house.speculator.clock.now() - since
    house.speculator._runner = engine  # type: ignore[assignment]


async def stand(house: House) -> None:
    await house.decide(BOTH)
    await house.tell(with_worker("attic"), with_worker("cellar"))
    await house.loaded()
    await until(lambda: house.speculator._runner is not None, "its engine runs")


async def test_a_pass_that_hangs_is_waited_for_only_until_it_is_overdue(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand(house)
    monkeypatch.setattr("twd.speculator.targets.pool.LOOK_S", LOOK_S)
    real = house.speculator._runner
    assert house.source._pause_s() == LOOK_S, "at rest there is nothing to wake up for"
    hang(house, since=2.0)
    assert house.source._pause_s() < LOOK_S, "it wakes up when the pass is overdue, and no sooner"
    await until(lambda: house.codes, "it ends")
    house.speculator._runner = real


async def test_devices_that_make_their_kernels_first_are_waited_for(house: House) -> None:
    gpus = decided(piece(DESK, 0, 10, head=True), msgspec.structs.replace(piece(ATTIC, 10, 20), device="CUDA0"))
    await house.decide(gpus)
    await house.tell(with_worker("attic"), with_worker("cellar"))
    await house.loaded()
    await until(lambda: house.speculator._runner is not None, "its engine runs")
    real = house.speculator._runner
    hang(house, since=0.0)
    assert house.source._under_way()[1] == UNKNOWN_S
    pace = house.speculator._runner.pace  # type: ignore[union-attr]
    pace.begins(64, 0.0)
    pace.ends(1.0)
    assert house.source._under_way()[1] == pass_deadline_s(0.0), "it computed as many rows before"
    house.speculator._runner = real


async def test_a_pass_over_a_worker_that_is_gone_is_waited_for_less(house: House) -> None:
    await stand(house)
    real = house.speculator._runner
    hang(house, since=0.0)
    _, usual = house.source._under_way()
    await house.tell(with_worker("cellar", pid=9))
    await house.emit(NodeChanged(node=CELLAR, facts=with_worker("cellar", pid=9)))
    await until(lambda: house.source._under_way()[1] == SUSPECT_S, "it is in doubt")
    assert usual > SUSPECT_S
    await until(lambda: house.codes, "it ends")
    house.speculator._runner = real


async def test_a_better_place_waits_for_running_jobs_and_not_longer(house: House) -> None:
    await stand(house)
    speculator = house.speculator
    speculator._owners.take(job("j"), SessionId("s"))
    better = decided(piece(DESK, 0, 0, head=True), piece(ATTIC, 0, 20))
    await house.decide(better)
    await house.emit(better)
    await until(lambda: house.source._better_since is not None, "it knows of the better place")
    assert house.codes == []
    speculator._owners.ended(JobId("j"), 1)
    speculator._look_idle()
    await until(lambda: house.codes, "it goes there")


async def test_news_are_looked_at_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.speculator.targets.pool.LOOK_S", 3600.0)
    await house.settled("waits for the coordinator's decision")
    await house.decide(BOTH)
    await house.emit(BOTH)
    await house.settled("attic, whose agent is not on the bus")
    for facts in (with_worker("attic"), with_worker("cellar")):
        await house.tell(facts)
        await house.emit(NodeChanged(node=facts.node, facts=facts))
    await house.loaded()


async def test_a_replica_goes_by_its_own_decision(house: House) -> None:
    ctx = ServiceContext(house.broker.connect("desk"), DESK, SystemClock(), Ids(random.Random(2)))
    settings = Settings(mode="combined", pool=PoolConfig(engine="rpc"))
    source = PoolSource(settings, "m#2", house.assembled, house.codes.append)
    second = SpeculatorService(ctx, ModelId("m"), source)
    await second.start()
    await house.decide(BOTH)
    await house.tell(with_worker("attic"), with_worker("cellar"))
    await house.loaded()
    assert (house.speculator.facts().place, second.facts().place) == ("m", "m#2")
    assert second.loaded is None
    worker = "rpc.pool.m-replica-2"
    own = msgspec.structs.replace(piece(ATTIC, 0, 20, head=True), process=worker)
    await house.put(placement_key("m#2"), encode(decided(own, replica=2)))
    process = ProcessFacts(process=worker, kind=ProcessKind.RPC, state="ready", pid=8, host="127.0.0.1", port=5009)
    attic = with_worker("attic")
    await house.tell(msgspec.structs.replace(attic, processes=[*attic.processes, process]))
    await until(lambda: second.loaded is not None, "the second one is loaded")
    assert second.facts().pool == ["attic/CPU layers 0-19, head"]
    await second.stop("test ends")
