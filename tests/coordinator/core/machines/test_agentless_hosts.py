"""Guests: RPC workers of machines without an agent, from the settings to a place in the plan."""

import itertools
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.coordinator.fake_guest import FakeGuest
from tests.coordinator.machines import DESK, GIB, RPC, machine, seeing, wanting
from tests.coordinator.test_coordinator_core import decision_of, nodes_of, settle
from tests.coordinator.test_coordinator_service import FakeAgent, ctx
from tests.engine.tiny_models import write_llama
from tests.waiting import until
from twd.bus.base import Leases
from twd.bus.memory.bus import MemoryBroker
from twd.coordinator.agentless_watch import AgentlessWatch
from twd.coordinator.core.drafters import WantedDrafter
from twd.coordinator.core.machines.agentless_hosts import (
    AGAIN_S,
    BUSY_S,
    LOSS_MOST_S,
    LOSS_S,
    AgentlessHost,
    EndpointState,
    RpcEndpoint,
    agentless_facts,
    agentless_hosts_of,
    barred,
    claims,
    held,
    left_for,
    losses,
    lost,
    remembered,
    visited,
)
from twd.coordinator.core.machines.devices import find_devices
from twd.coordinator.core.plan import plan
from twd.coordinator.core.process_reconciler import idle_drafters
from twd.coordinator.core.state import DecidePlacement, StartProcess
from twd.coordinator.service import CoordinatorService
from twd.engine.rpc.probe import OURS, LentMemory, RpcUnusable, RpcVersion, RpcWorkerFacts
from twd.kit.clock import SystemClock
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.net.ports import free_port
from twd.settings.model import GpuConfig, ModelConfig, PoolConfig, Settings, WorkerConfig
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.failures import FailureCode
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.node import GUEST_KEYS, ModelFile, NodeFacts, read_node
from twd.wire.placement import GuestUse
from twd.wire.service import ServiceLease

ME = InstanceId("coordinator.desk.x")
BOX = NodeId("10-0-0-9")
WORKER = "rpc.guest.50052"
DOOR = RpcEndpoint("10.0.0.9", 50052)
FINE = RpcWorkerFacts(OURS, (LentMemory(24 * GIB, 25 * GIB),), 0.002)


def pool(*workers: WorkerConfig, **fields: object) -> PoolConfig:
    return msgspec.structs.replace(RPC, workers=workers, **fields)


GUEST = AgentlessHost("10.0.0.9", (DOOR,))


def facts_of(guest: AgentlessHost = GUEST, found: RpcWorkerFacts | RpcUnusable = FINE) -> NodeFacts:
    return agentless_facts(guest, lambda door: visited(door, found, RPC, None, 0.0), ME, 1)


# -- who is a guest ------------------------------------------------------------------------------------


def test_a_machine_of_the_settings_is_a_guest_unless_an_agent_answers_for_it() -> None:
    told = pool(WorkerConfig(host="attic"), WorkerConfig(host="10.0.0.9"), WorkerConfig(host="127.0.0.1"))
    agents = [machine("attic"), msgspec.structs.replace(machine("desk"), peer_url="http://127.0.0.1:9191")]
    assert [guest.host for guest in agentless_hosts_of(told, agents)] == ["10.0.0.9", "127.0.0.1"]
    assert [guest.host for guest in agentless_hosts_of(told, [])] == ["attic", "10.0.0.9", "127.0.0.1"]
    assert agentless_hosts_of(msgspec.structs.replace(told, engine="ring"), []) == []


def test_a_machine_that_is_named_in_several_ways_is_one_guest_and_no_agents() -> None:
    hosts = ("localhost", "127.0.0.1", "LocalHost", "Rig", "rig")
    agents = [msgspec.structs.replace(machine("localhost"), hostname="localhost")]
    found = agentless_hosts_of(pool(*(WorkerConfig(host=host) for host in hosts)), agents)
    assert [(guest.node, [door.port for door in guest.doors]) for guest in found] == [
        ("127-0-0-1", [50052]),
        ("rig", [50052]),
    ]


def test_a_guest_has_one_door_for_each_port_and_devices_share_them() -> None:
    gpus = (GpuConfig(vram_gb=8), GpuConfig(vram_gb=6, rpc_port=7), GpuConfig(vram_gb=4))
    told = pool(WorkerConfig(host="10.0.0.9", gpus=gpus), WorkerConfig(host="10.0.0.9", rpc_port=9))
    (guest,) = agentless_hosts_of(told, [])
    assert guest.node == "10-0-0-9", "the whole address"
    doors = {door.port: [gpu.vram_gb for gpu in door.gpus] for door in guest.doors}
    assert doors == {7: [6], 9: [], 50052: [8, 4]}


@pytest.mark.parametrize(
    ("host", "trusted", "why"),
    [
        ("10.0.0.9", True, ""),
        ("10.0.0.9", False, "set pool.trusted_lan: true"),
        ("127.0.0.1", False, ""),
        ("localhost", False, ""),
        ("::1", True, "IPv4"),
    ],
)
def test_a_guest_is_reached_in_the_clear_only_where_that_is_allowed(host: str, trusted: bool, why: str) -> None:
    told = barred(host, PoolConfig(engine="rpc", trusted_lan=trusted))
    assert why in told
    assert bool(told) == bool(why)


# -- what a visit tells --------------------------------------------------------------------------------


def test_devices_are_what_the_worker_tells_and_the_settings_win() -> None:
    two = RpcWorkerFacts(OURS, (LentMemory(5 * GIB, 6 * GIB), LentMemory(8 * GIB, 8 * GIB)))
    facts = facts_of(found=two)
    assert [(gpu.free, gpu.total, gpu.shared) for gpu in facts.gpus] == [
        (5 * GIB, 6 * GIB, False),
        (4 * GIB, 8 * GIB, True),  # a processor's memory is never all free
    ]
    assert [(one.state, one.devices) for one in facts.processes] == [("ready", ["RPC0", "RPC1"])]
    given = AgentlessHost(
        "10.0.0.9", (RpcEndpoint("10.0.0.9", 7), RpcEndpoint("10.0.0.9", 9, (GpuConfig(vram_gb=3),) * 3))
    )
    facts = facts_of(given, two)
    assert [gpu.free // GIB for gpu in facts.gpus] == [5, 4, 3, 3], "no more than the worker lends"
    assert [one.devices for one in facts.processes] == [["RPC0", "RPC1"], ["RPC2", "RPC3"]]


def test_another_version_is_refused_with_both_and_the_fix() -> None:
    old = RpcWorkerFacts(RpcVersion(6, 1, 0))
    seen = visited(DOOR, old, RPC, None, 0.0)
    for part in ("10.0.0.9:50052", "6.1.0", str(OURS), "Update the worker", "pool.skip_version_check"):
        assert part in seen.problem
    insisting = msgspec.structs.replace(RPC, skip_version_check=True)
    assert "vram_gb" in visited(DOOR, old, insisting, None, 0.0).problem
    assert visited(replace(DOOR, gpus=(GpuConfig(vram_gb=8),)), old, insisting, None, 0.0).problem == ""


def test_one_that_is_gone_is_visited_soon_and_one_that_is_busy_later() -> None:
    gone = visited(DOOR, RpcUnusable("10.0.0.9:50052", "Connection refused"), RPC, None, 100.0)
    busy = visited(DOOR, RpcUnusable("10.0.0.9:50052", "silence", FailureCode.BUSY), RPC, None, 100.0)
    assert (gone.again_at, busy.again_at) == (100 + AGAIN_S, 100 + BUSY_S)
    assert "Connection refused" in gone.problem
    facts = agentless_facts(GUEST, lambda door: gone, ME, 1)
    assert facts.gpus == []
    (note,) = find_devices([machine("desk"), facts], RPC, DESK).notes
    assert note.startswith("10-0-0-9 is left out: no agent on the bus answers for it")


def test_a_worker_that_models_lose_again_and_again_is_left_alone_longer_until_that_is_long_ago() -> None:
    seen: EndpointState | None = None
    pauses = []
    for _ in range(10):
        seen = lost(seen, "why", 100.0)
        pauses.append(seen.again_at - 100.0)
        seen = visited(DOOR, FINE, RPC, seen, 100.0)
        assert seen.problem == ""
    assert pauses[:3] == [LOSS_S, 2 * LOSS_S, 4 * LOSS_S]
    assert pauses[-1] == LOSS_MOST_S
    assert lost(seen, "why", 5000.0).again_at == 5000.0 + LOSS_S


def test_the_next_coordinator_knows_what_the_last_one_did() -> None:
    facts = facts_of(found=RpcWorkerFacts(OURS, (LentMemory(8 * GIB, 8 * GIB), LentMemory(GIB, 2 * GIB)), 0.002))
    known = remembered(facts, 50.0)
    again = agentless_facts(GUEST, lambda door: known[door.process], ME, 1)
    assert again.gpus == facts.gpus
    assert [gpu.shared for gpu in again.gpus] == [True, False], "a processor's memory is still known as such"
    assert (again.processes, again.link_ms) == (facts.processes, 2.0)


# -- in the plan ---------------------------------------------------------------------------------------


def test_a_model_is_placed_on_a_guest_and_nobody_is_asked_for_anything() -> None:
    observed = seeing(machine("desk", 8), facts_of())
    (only,) = settle(wanting(), observed)
    assert isinstance(only, DecidePlacement)
    decision = decision_of(observed)
    assert {piece.process for piece in decision.slices if piece.node == BOX} == {WORKER}
    assert {piece.device for piece in decision.slices if piece.node == BOX} == {"RPC0"}
    assert claims(observed.decided) == {(BOX, WORKER): "big"}
    assert plan(wanting(), observed, 100.0) is None


def test_a_guest_that_is_gone_is_planned_without_and_with_it_when_it_is_back() -> None:
    observed = seeing(machine("desk", 8), facts_of())
    settle(wanting(), observed)
    gone = facts_of(found=RpcUnusable("10.0.0.9:50052", "Connection refused"))
    observed.nodes = {**observed.nodes, BOX: gone}
    (told,) = settle(wanting(), observed)
    assert isinstance(told, DecidePlacement)
    assert decision_of(observed).missing_bytes
    assert any("Connection refused" in note for note in decision_of(observed).notes)
    observed.nodes = {**observed.nodes, BOX: facts_of()}
    settle(wanting(), observed)
    assert BOX in nodes_of(decision_of(observed))


def test_a_guests_worker_holds_one_model_at_a_time_and_the_next_gets_it_when_it_is_free() -> None:
    (first,) = wanting().models
    second = replace(first, name="second")
    both = replace(wanting(), models=(first, second))
    roomy = facts_of(found=RpcWorkerFacts(OURS, (LentMemory(100 * GIB, 101 * GIB),)))
    observed = seeing(machine("desk", 4), roomy)
    settle(both, observed)
    assert claims(observed.decided) == {(BOX, WORKER): "big"}
    assert observed.decided["second"].missing_bytes
    assert any("port 50052 serves big" in note for note in observed.decided["second"].notes)
    del observed.decided["big"]
    observed.held = {(BOX, WORKER): "big"}
    settle(replace(both, models=(second,)), observed)
    assert observed.decided["second"].missing_bytes, "its speculator has not let go yet"
    observed.held = {}
    settle(replace(both, models=(second,)), observed)
    assert claims(observed.decided) == {(BOX, WORKER): "second"}


def test_two_workers_of_one_guest_serve_two_models() -> None:
    guest = AgentlessHost("10.0.0.9", (DOOR, RpcEndpoint("10.0.0.9", 50053)))
    facts = facts_of(guest)
    left = left_for("second", [facts], {}, {(BOX, WORKER): "big"})
    (devices,) = [find_devices(left, RPC, DESK).devices]
    assert [(one.name, one.process) for one in devices] == [("RPC1", "rpc.guest.50053")]
    assert left_for("big", [facts], {}, {(BOX, WORKER): "big"}) == [facts]


def test_what_is_free_on_a_guest_was_told_before_it_was_loaded() -> None:
    observed = seeing(machine("desk", 8), facts_of())
    settle(wanting(), observed)
    before = decision_of(observed)
    observed.served = {"big"}
    settle(replace(wanting(), pool=msgspec.structs.replace(RPC, layers_at_home=False)), observed)
    free = [piece.free_bytes for piece in decision_of(observed).slices if piece.node == BOX]
    assert free == [piece.free_bytes for piece in before.slices if piece.node == BOX]


def test_only_what_a_placed_model_tells_of_its_guests_counts_as_lost() -> None:
    observed = seeing(machine("desk", 8), facts_of())
    settle(wanting(), observed)
    uses = {"big": [GuestUse(node=BOX, process=WORKER, problem="refused")]}
    assert list(losses(uses, observed.decided)) == [((BOX, WORKER), "refused")]
    assert list(losses({"other": uses["big"]}, observed.decided)) == []
    assert list(losses(uses, {})) == []
    assert held(uses) == {}
    assert held({"big": [GuestUse(node=BOX, process=WORKER)]}) == {(BOX, WORKER): "big"}


def test_a_drafter_is_never_asked_of_a_guest() -> None:
    drafter = WantedDrafter("drafter.pool.q.0", ModelFile(name="q", path="/q.gguf", size_bytes=1), BOX, "q")
    wanted, observed = replace(wanting(), drafters=(drafter,)), seeing(machine("desk", 8), facts_of())
    assert not [action for action in settle(wanted, observed) if isinstance(action, StartProcess)]
    assert len(idle_drafters(wanted, observed)) == 1


# -- the watch -----------------------------------------------------------------------------------------


def watching(*ports: int) -> AgentlessWatch:
    workers = tuple(WorkerConfig(host="127.0.0.1", rpc_port=port) for port in ports)
    watch = AgentlessWatch(pool(*workers, trusted_lan=False), ME, 1, SystemClock())
    (facts,) = watch.meet([machine("desk")])
    assert facts.looking
    return watch


async def test_a_guest_is_visited_and_told_and_vanishes_when_its_agent_comes() -> None:
    registry = await MemoryBroker().connect("x").leases(LEASE_BUCKET, LEASE_TTL_S)
    async with FakeGuest() as guest:
        watch = watching(guest.port, nobody := free_port())
        assert await watch.visit(set)
        await watch.publish(registry)
        assert not await watch.visit(set)
        assert guest.visits == 1, "its turn is later"
    (entry,) = await registry.entries()
    facts = read_node(entry.value, entry.key)
    assert facts is not None
    assert (entry.key, facts.guest, facts.looking) == (f"{GUEST_KEYS}127-0-0-1", True, False)
    states = {one.port: (one.state, bool(one.note)) for one in facts.processes}
    assert states == {guest.port: ("ready", False), nobody: ("unusable", True)}
    watch.meet([])
    watch._agentless_hosts = []
    await watch.publish(registry)
    assert await registry.entries() == []


async def test_one_that_is_used_is_not_visited_and_what_befell_it_is_heard_of_its_user() -> None:
    async with FakeGuest() as guest:
        watch, worker = watching(guest.port), (NodeId("127-0-0-1"), f"rpc.guest.{guest.port}")
        await watch.visit(lambda: {worker})
        assert guest.visits == 0
        taken_meanwhile = itertools.chain([set()], itertools.repeat({worker}))
        await watch.visit(lambda: next(taken_meanwhile))
        assert (guest.visits, watch.facts()[0].looking) == (1, True)
        await watch.visit(set)
        watch.lose(worker, "the speculator could not reach it")
        watch.lose(worker, "and told so twice")
        (facts,) = watch.facts()
        assert [one.note for one in facts.processes] == ["the speculator could not reach it"]
        assert not await watch.visit(set)
        assert guest.visits == 2, "it is left alone for a while"


async def test_a_guest_that_nobody_may_reach_in_the_clear_is_not_visited() -> None:
    async def never(host: str, port: int) -> RpcWorkerFacts:
        raise AssertionError("nobody may go there")

    watch = AgentlessWatch(
        PoolConfig(engine="rpc", workers=(WorkerConfig(host="10.0.0.9"),)), ME, 1, SystemClock(), never
    )
    watch.meet([machine("desk")])
    await watch.visit(set)
    (facts,) = watch.facts()
    assert "set pool.trusted_lan: true" in facts.processes[0].note


async def test_what_the_last_coordinator_told_is_taken_over() -> None:
    registry = await MemoryBroker().connect("x").leases(LEASE_BUCKET, LEASE_TTL_S)
    async with FakeGuest() as guest:
        first = watching(guest.port)
        await first.visit(set)
        await first.publish(registry)
        second = watching(guest.port)
        second.restore(await registry.entries())
        assert second.facts() == first.facts()
        assert guest.visits == 1
        third = AgentlessWatch(pool(WorkerConfig(host="127.0.0.1", rpc_port=guest.port)), ME, 1, SystemClock())
        told = await registry.entries()
        third.restore(told)
        await third.publish(registry)
        assert [entry.key for entry in await registry.entries()] == [entry.key for entry in told], "it has yet to look"


# -- on a bus ------------------------------------------------------------------------------------------


class FakeSpeculator:
    """The lease of a model that lies on a guest, or could not be loaded there."""

    def __init__(self, registry: Leases) -> None:
        self._registry = registry

    async def tells(self, *uses: GuestUse) -> None:
        lease = ServiceLease(
            service="speculator", instance=InstanceId("speculator.desk.x"), node=DESK, pid=1, version="1",
            started_ms=1, renewed_ms=1, facts=SpeculatorFacts(model=ModelId("tiny"), place="tiny", guests=list(uses)),
        )  # fmt: skip
        await self._registry.put("speculator.desk.x", msgspec.json.encode(lease))


async def test_a_guest_is_found_placed_lost_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twd.coordinator.core.machines.agentless_hosts.LOSS_S", 0.1)
    monkeypatch.setattr("twd.coordinator.service.TURN_S", 0.1)
    broker = MemoryBroker()
    desk = FakeAgent(ctx(broker, "desk", 1), machine("desk", 8))
    await desk.start()
    registry = await desk.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    path = str(write_llama(tmp_path / "tiny.gguf"))
    async with FakeGuest() as guest:
        workers = (WorkerConfig(host="127.0.0.1", rpc_port=guest.port),)
        settings = Settings(
            mode="combined",
            pool=PoolConfig(engine="rpc", workers=workers, layers_at_home=False),
            models={"tiny": ModelConfig(path=path, ctx_size=512, parallel=1)},
        )
        coordinator = CoordinatorService(ctx(broker, "desk", 2), settings)
        await coordinator.start()
        box, process = NodeId("127-0-0-1"), f"rpc.guest.{guest.port}"

        def placed() -> bool:
            decision = coordinator._observed.decided.get("tiny")
            return decision is not None and (box, process) in claims({"tiny": decision})

        await until(placed, "the model goes to the guest")
        assert f"{GUEST_KEYS}{box}" in {entry.key for entry in await registry.entries()}
        speculator, visits = FakeSpeculator(registry), guest.visits
        await speculator.tells(GuestUse(node=box, process=process))
        await until(lambda: (box, process) in coordinator._observed.held, "that it is held is known")
        assert guest.visits == visits
        await speculator.tells(GuestUse(node=box, process=process, problem="refused"))
        await until(lambda: not placed(), "the model goes elsewhere")
        assert "refused" in str(coordinator.facts().guests)
        assert any("refused" in note for note in coordinator._observed.decided["tiny"].notes)
        await speculator.tells()
        await until(placed, "it is visited again, and used")
    assert desk.asked == [], "nobody is asked for a guest's worker"
    await coordinator.stop()
    await desk.stop()
