"""Workers of guests, as the speculator of a model uses them: what it tells of them, and in which order."""

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.coordinator.fake_guest import FakeGuest
from tests.coordinator.machines import DESK, machine
from tests.tcp import linux_only
from tests.waiting import until
from twd.bus.memory.bus import MemoryBroker
from twd.engine.rpc import probe as rpc_probe
from twd.engine.rpc.pool import LayerShare
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, ServiceContext
from twd.net.ports import free_port
from twd.settings.model import PoolConfig, Settings
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.loaded import Load
from twd.speculator.targets.pool import PoolSource, hung_up
from twd.speculator.targets.pool_core import PoolAssembly, RingMember, assemble, rpc_plan
from twd.speculator.targets.pool_rpc import WorkerRoutes, reach_all
from twd.speculator.targets.pool_view import PoolView
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.codec import encode
from twd.wire.failures import TwdError
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import GUEST_KEYS, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import GuestUse, PlacementDecided, Slice, placement_key
from twd.wire.service import read_lease

BOX = NodeId("box")
SETTINGS = Settings(mode="combined", pool=PoolConfig(engine="rpc"))


def worker(port: int, *devices: str) -> ProcessFacts:
    process, kind = f"rpc.guest.{port}", ProcessKind.RPC
    return ProcessFacts(
        process=process, kind=kind, state="ready", host="127.0.0.1", port=port, devices=list(devices or ("RPC0",))
    )


def box(*processes: ProcessFacts) -> NodeFacts:
    return msgspec.structs.replace(machine("box"), guest=True, processes=list(processes))


def placed(*processes: ProcessFacts, device: str = "RPC0") -> PlacementDecided:
    here = Slice(node=DESK, device="CPU", first=0, end=0, head=True)
    slices = [Slice(node=BOX, device=device, first=0, end=20, process=one.process) for one in processes]
    return PlacementDecided(
        model=ModelId("m"), coordinator=InstanceId("c"), home=DESK, engine="rpc", slices=[here, *slices]
    )


def together(*processes: ProcessFacts, device: str = "RPC0") -> PoolAssembly:
    nodes = {DESK: machine("desk"), BOX: box(*processes)}
    return assemble(placed(*processes, device=device), nodes)


def members(*processes: ProcessFacts) -> list[RingMember]:
    return list(together(*processes).processes.values())


def test_a_slice_gets_just_the_device_that_it_was_placed_on() -> None:
    one = worker(7, "RPC2", "RPC3")
    plan = rpc_plan(together(one, device="RPC3"), {f"box {one.process}": "127.0.0.1:7"})
    assert plan.shares == (LayerShare(20, "127.0.0.1:7", "RPC3", 1),)
    assert not plan.on_cpus, "what computes there is not known"


class House:
    """A speculator on a bus, whose lease can be read."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        ctx = ServiceContext(self.broker.connect("desk"), DESK, SystemClock(), Ids(random.Random(1)))
        self.source = PoolSource(SETTINGS, "m", self.assembled, lambda code: None)
        self.speculator = SpeculatorService(ctx, ModelId("m"), self.source)
        self.ways = WorkerRoutes(SETTINGS, "m", self.never)

    async def assembled(self, assembly: PoolAssembly) -> Load:
        raise AssertionError("nothing is loaded here")

    async def never(self, certificate: str) -> None:
        raise AssertionError("a guest has no certificate")

    async def told(self) -> list[GuestUse]:
        leases = await self.broker.connect("reader").leases(LEASE_BUCKET, LEASE_TTL_S)
        entry = await leases.get(self.speculator.instance)
        lease = read_lease(entry.value, entry.key) if entry else None
        told = lease.told(SpeculatorFacts) if lease else None
        return told.guests if told else []


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    await house.speculator.start()
    yield house
    await house.speculator.stop("test ends")


async def test_what_is_held_is_told_before_anybody_goes_there(house: House) -> None:
    before: list[list[GuestUse]] = []

    class Watched(FakeGuest):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            before.append(await house.told())
            await super()._serve(reader, writer)

    async with Watched() as guest:
        (endpoint,) = await reach_all(house.ways, members(worker(guest.port)), house.source)
    use = GuestUse(node=BOX, process=f"rpc.guest.{guest.port}")
    assert endpoint == f"127.0.0.1:{guest.port}"
    assert before == [[use]]
    assert await house.told() == [use]


async def test_one_that_is_gone_is_told_with_the_reason_and_the_others_are_let_go(house: House) -> None:
    gone = worker(free_port())
    async with FakeGuest() as guest:
        with pytest.raises(TwdError, match="is the worker running"):
            await reach_all(house.ways, members(worker(guest.port), gone), house.source)
    (use,) = await house.told()
    assert use.process == gone.process
    assert "is the worker running" in use.problem


async def test_one_that_is_busy_is_asked_twice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    async def slow(host: str, port: int, ours: rpc_probe.RpcVersion) -> rpc_probe.RpcVersion:
        calls.append(port)
        return await rpc_probe.require_match(host, port, ours, timeout_s=0.05)

    monkeypatch.setattr("twd.speculator.targets.pool_rpc.require_match", slow)
    async with FakeGuest() as guest, guest._turn:
        with pytest.raises(TwdError, match="it may serve another client"):
            await reach_all(house.ways, members(worker(guest.port)), house.source)
    assert calls == [guest.port, guest.port]


async def test_a_loss_is_told_no_more_when_the_model_is_placed_elsewhere(house: House) -> None:
    leases = await house.broker.connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    gone = worker(9)
    await leases.put(placement_key("m"), encode(placed(gone)))
    await until(lambda: house.source._now.placement is not None, "it is seen")
    await house.source.tell_guests([GuestUse(node=BOX, process=gone.process, problem="refused")])
    await house.source._look()
    assert house.source.guests, "the decision is still the same"
    await leases.put(placement_key("m"), encode(placed()))
    await house.source._look()
    assert await house.told() == []


async def test_guests_count_while_no_coordinator_tells_of_them() -> None:
    leases = await MemoryBroker().connect("writer").leases(LEASE_BUCKET, LEASE_TTL_S)
    await leases.put(placement_key("m"), encode(placed(worker(7))))
    await leases.put(f"{GUEST_KEYS}box", msgspec.json.encode(box(worker(7))))
    found = await PoolView(leases, "m", -1.0).look()
    assert found.complete


@linux_only
async def test_a_worker_that_hangs_up_is_noticed_at_rest() -> None:
    async with FakeGuest() as guest:
        over = together(worker(guest.port))
        assert hung_up(over) == ""
        _, writer = await asyncio.open_connection("127.0.0.1", guest.port)
        assert hung_up(over) == ""
        writer.write(b"this is no handshake, and long enough to be told from one")
        await until(lambda: hung_up(over) == "box/RPC0 hung up", "it is noticed")
        writer.close()
