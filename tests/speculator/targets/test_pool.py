"""A pooled model on a bus in memory: what it waits for, when it comes back, when it goes elsewhere."""

import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.coordinator.machines import machine
from tests.signed import signed
from tests.sim.engines import PlayedModel
from tests.speculator.fakes import job
from tests.waiting import until
from twd.bus.base import Leases
from twd.bus.memory.bus import MemoryBroker
from twd.engine.rpc.pool import LayerShare
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
    PlacementHistory,
    PoolAssembly,
    assemble,
    pass_deadline_s,
    replaced,
    rpc_plan,
    silent,
)
from twd.speculator.targets.pool_ring import PlacedStages
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.codec import encode
from twd.wire.draft import DeviceKind
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.workers import StageFacts
from twd.wire.node import NodeChanged, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice, placement_key
from twd.wire.ring import StageReady
from twd.wire.routes import subject_of
from twd.wire.service import ServiceLease

DESK, ATTIC, CELLAR = NodeId("desk"), NodeId("attic"), NodeId("cellar")
WORKER = "rpc.pool.m"


def piece(node: NodeId, first: int, end: int, head: bool = False) -> Slice:
    return Slice(node=node, device="CPU", first=first, end=end, head=head, process="" if node == DESK else WORKER)


def decided(*slices: Slice, **fields: object) -> PlacementDecided:
    given = {"model": ModelId("m"), "coordinator": InstanceId("c"), "home": DESK, "engine": "rpc", **fields}
    return PlacementDecided(**given, slices=list(slices))  # type: ignore[arg-type]


BOTH = decided(piece(DESK, 0, 2, head=True), piece(ATTIC, 2, 10), piece(CELLAR, 10, 20), links={"attic": 2.0})


def with_worker(node: str, state: str = "ready", pid: int = 7, port: int = 5001) -> NodeFacts:
    process = ProcessFacts(
        process=WORKER, kind=ProcessKind.RPC, state=state, pid=pid, host="127.0.0.1", port=port, note="why"
    )
    return msgspec.structs.replace(machine(node), processes=[process])


def there(*facts: NodeFacts) -> dict[NodeId, NodeFacts]:
    return {one.node: one for one in facts}


@pytest.mark.parametrize(
    ("placement", "nodes", "texts"),
    [
        (None, (), ("the coordinator's decision",)),
        (
            decided(missing_bytes=1, notes=["3.1 GB of memory are missing"], helps=["add a machine"]),
            (),
            ("3.1 GB of memory are missing; add a machine",),
        ),
        (BOTH, (with_worker("attic"),), ("cellar, whose agent is not on the bus",)),
        (BOTH, (with_worker("attic"), machine("cellar")), ("cellar's worker",)),
        (
            BOTH,
            (with_worker("attic", "starting"), machine("cellar")),
            ("attic's worker (starting: why)", "cellar's worker"),
        ),
        (BOTH, (with_worker("attic"), with_worker("cellar")), ()),
    ],
)
def test_what_is_missing_is_said(
    placement: PlacementDecided | None, nodes: tuple[NodeFacts, ...], texts: tuple[str, ...]
) -> None:
    found = assemble(placement, there(*nodes))
    assert found.waits_for == texts
    assert found.complete == (not texts)


def test_layers_on_the_machine_that_serves_count_as_computed_there_whoever_plays_it() -> None:
    def device(*pieces: Slice, played: bool = False) -> DeviceKind:
        desk, attic = machine("desk"), with_worker("attic")
        attic = msgspec.structs.replace(attic, machine=desk.machine) if played else attic
        return assemble(decided(*pieces), there(desk, attic)).device

    gpu = msgspec.structs.replace(piece(ATTIC, 0, 20), device="CUDA0")
    assert device(piece(DESK, 0, 0, head=True), piece(ATTIC, 0, 20)) is DeviceKind.ELSEWHERE
    assert device(piece(DESK, 0, 0, head=True), piece(ATTIC, 0, 20), played=True) is DeviceKind.CPU
    assert device(gpu, played=True) is DeviceKind.GPU
    assert device(piece(DESK, 0, 2), piece(ATTIC, 2, 20)) is DeviceKind.CPU


def test_an_assembly_becomes_the_engines_plan() -> None:
    found = assemble(BOTH, there(with_worker("attic"), with_worker("cellar", port=5002)))
    plan = rpc_plan(found, {f"attic {WORKER}": "a:1", f"cellar {WORKER}": "c:2"})
    assert plan.shares == (LayerShare(2), LayerShare(8, "a:1"), LayerShare(10, "c:2"))
    assert plan.head_here
    assert plan.rtt_ms == 2.0
    behind = decided(piece(ATTIC, 0, 20, head=True), piece(DESK, 0, 0))
    plan = rpc_plan(assemble(behind, there(with_worker("attic"))), {f"attic {WORKER}": "a:1"})
    assert (plan.shares, plan.head_here) == ((LayerShare(20, "a:1"),), False)


def spared(name: str, state: str = "ready", pid: int = 7) -> NodeFacts:
    process = ProcessFacts(process="stage.0", kind=ProcessKind.STAGE, state=state, pid=pid, host="h", port=pid)
    return msgspec.structs.replace(machine(name), processes=[process])


def stage_on(name: str, pid: int = 7) -> StageReady:
    return StageReady(
        stage=InstanceId(f"stage.{name}.{pid}"), node=NodeId(name), model=ModelId("m"), file_hash="h", first=0, end=20,
        layers=20, head=True, host="here", port=1,
    )  # fmt: skip


async def placed_on(broker: MemoryBroker) -> PlacedStages:
    """What finds the stages of the model on this bus."""
    found = PlacedStages("m", 5.0)
    await found.open(broker.connect("desk"))
    return found


async def tell_stage(leases: Leases, node: NodeId, file: str = "h") -> None:
    """A machine and the stage on it, in the registry."""
    await leases.put(f"agent.{node}.claim", msgspec.json.encode(spared(node)))
    stage = msgspec.structs.replace(stage_on(node), file_hash=file)
    told = ServiceLease(
        service="stage", instance=InstanceId(f"stage.{node}.x"), node=node, pid=7, version="1", started_ms=1,
        renewed_ms=1, facts=StageFacts(slice=stage),
    )  # fmt: skip
    await leases.put(f"stage.{node}.x", msgspec.json.encode(told))


def test_a_spare_serves_while_its_original_does_not_and_then_goes_on() -> None:
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    placement = decided(slices[0], spares=slices[1:], engine="ring")
    swapped = decided(slices[1], spares=slices[:1], engine="ring")
    stages = {(node, 7): stage_on(node) for node in (ATTIC, CELLAR)}
    both = there(spared("attic"), spared("cellar"))

    def chosen(nodes: dict[NodeId, NodeFacts], habit: PlacementHistory, of: PlacementDecided = placement) -> str:
        found = assemble(of, nodes, stages, habit)
        return found.members[0].slice.node if found.complete else "; ".join(found.waits_for)

    held, attic = PlacementHistory(held={(CELLAR, "stage.0")}), stages[ATTIC, 7].stage
    assert chosen(both, PlacementHistory()) == "attic"
    assert chosen(both | there(spared("attic", "starting", pid=8)), PlacementHistory()) == "cellar"
    assert chosen(there(spared("attic", "starting")), PlacementHistory()) == "attic", "its stage says that it is ready"
    assert chosen(there(spared("cellar")), PlacementHistory()) == "cellar"
    assert chosen(both, held) == "cellar", "what works is not left for what comes back"
    assert assemble(placement, both, stages, held).signature == assemble(swapped, both, stages, held).signature
    assert chosen(both, PlacementHistory(lost=[attic])) == "cellar"
    assert chosen(there(spared("attic")), PlacementHistory(lost=[attic])) == "attic", "perhaps it was the network"
    assert chosen(there(machine("attic")), held) == "attic's worker"
    assert chosen(both, held, decided(slices[0], engine="ring")) == "attic"


async def test_a_stage_that_could_not_be_reached_is_replaced_by_its_spare() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    await leases.put(placement_key("m"), encode(decided(slices[0], spares=slices[1:], engine="ring")))
    for node in (ATTIC, CELLAR):
        await tell_stage(leases, node)
    found = await placed_on(broker)
    (first,) = await found.stages("h")
    assert (first.node, first.host, first.port) == ("attic", "h", 7)
    found.lost(first.stage, "it does not answer")
    assert [stage.node for stage in await found.stages("h")] == ["cellar"]
    assert [stage.node for stage in await found.stages("h")] == ["cellar"], "and it stays there"


async def test_a_stage_that_was_reached_after_all_is_not_left_for_its_spare() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    await leases.put(placement_key("m"), encode(decided(slices[0], spares=slices[1:], engine="ring")))
    await tell_stage(leases, ATTIC)
    found = await placed_on(broker)
    (first,) = await found.stages("h")
    found.lost(first.stage, "no answer within 0.3 s")
    assert [stage.node for stage in await found.stages("h")] == ["attic"], "there is no other"
    found.reached([first])
    await tell_stage(leases, CELLAR)
    assert [stage.node for stage in await found.stages("h")] == ["attic"]


async def test_slices_of_another_file_are_no_ring() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    slices = [Slice(node=node, device="CPU", first=0, end=20, head=True, process="stage.0") for node in (ATTIC, CELLAR)]
    await leases.put(placement_key("m"), encode(decided(slices[0], spares=slices[1:], engine="ring")))
    for node, file in ((ATTIC, "other"), (CELLAR, "h")):
        await tell_stage(leases, node, file)
    found = await placed_on(broker)
    with pytest.raises(TwdError, match=r"was cut on attic \(other\); copy the model anew there"):
        await found.stages("h")
    assert [stage.node for stage in await found.stages("h")] == ["cellar"], "a spare of the right file"


async def test_news_of_other_models_and_machines_do_not_concern_a_ring() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    found = await placed_on(broker)
    changed = NodeChanged(node=CELLAR, facts=machine("cellar"))
    assert found.concerns(changed), "nothing is decided yet, so any machine may be one of the pool's"
    placement = decided(piece(ATTIC, 0, 20, head=True), engine="ring")
    await leases.put(placement_key("m"), encode(placement))
    assert not await found.better("h"), "its stages are not there"
    assert not found.concerns(changed)
    assert found.concerns(NodeChanged(node=ATTIC, facts=machine("attic")))
    assert found.concerns(placement)
    assert not found.concerns(msgspec.structs.replace(placement, model=ModelId("other")))
    assert not found.concerns(stage_on("attic"))


async def test_a_ring_goes_where_another_decision_puts_it_once_all_is_there() -> None:
    broker = MemoryBroker()
    leases = await broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    found, slices = await placed_on(broker), {node: Slice(
        node=node, device="CPU", first=0, end=20, head=True, process="stage.0"
    ) for node in (ATTIC, CELLAR)}  # fmt: skip
    await leases.put(placement_key("m"), encode(decided(slices[ATTIC], engine="ring")))
    await tell_stage(leases, ATTIC)
    await found.stages("h")
    assert await found.better("h") == "", "it is there"
    await leases.put(placement_key("m"), encode(decided(slices[CELLAR], engine="ring")))
    assert await found.better("h") == "", "the stage is not ready"
    await tell_stage(leases, CELLAR)
    assert "cellar" in await found.better("h")
    assert await found.better("another") == "", "stages of another file are no better"


def test_another_process_is_a_loss_and_silence_is_a_doubt() -> None:
    nodes = there(with_worker("attic"), with_worker("cellar"))
    loaded = assemble(BOTH, nodes)
    assert (replaced(loaded, loaded), silent(loaded, loaded)) == ("", "")
    assert replaced(loaded, assemble(BOTH, nodes | there(with_worker("attic", pid=8)))) == "attic/CPU was lost"
    assert replaced(loaded, assemble(BOTH, nodes | there(with_worker("attic", "waiting")))) == "attic/CPU was lost"
    quiet = assemble(BOTH, there(with_worker("cellar")))
    assert (replaced(loaded, quiet), silent(loaded, quiet)) == ("", "nothing is heard of attic")
    assert silent(loaded, PoolAssembly()) == "nothing is heard of attic"


def test_a_pass_may_take_long_only_where_it_is_expected_to() -> None:
    assert pass_deadline_s(10.0) == 2.5
    assert pass_deadline_s(2000.0) == 9.0
    assert [pass_deadline_s(10.0, crowd) for crowd in (0.1, 2.0, 50.0)] == [2.5, 5.0, 10.0]
    assert pass_deadline_s(10.0, familiar=False) == UNKNOWN_S


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


async def test_a_pass_that_hangs_is_waited_for_only_until_it_is_overdue(house: House) -> None:
    await stand(house)
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
