"""Given what is wanted and what is there: the next action, and none when all is as it should be."""

import random
import time
from dataclasses import replace

import msgspec
import pytest

from tests.coordinator.machines import DESK, GIB, RPC, machine, seeing, wanting
from twd.coordinator.core.machines.devices import GPU_SHARE, GPU_SPEEDS, find_devices
from twd.coordinator.core.model_placement import decide
from twd.coordinator.core.placement.values import MachineLink
from twd.coordinator.core.plan import plan
from twd.coordinator.core.process_reconciler import MOVE_S
from twd.coordinator.core.processes import process_of
from twd.coordinator.core.state import DecidePlacement, ObservedState, StartProcess, StopProcess, WantedState
from twd.coordinator.lease import may_act
from twd.settings.model import GpuConfig, PoolConfig, WorkerConfig
from twd.wire.base import NodeId
from twd.wire.node import Build, GpuFacts, ModelFile, NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided

PROCESS = process_of("big", ["CUDA0"])


def settle(wanted: WantedState, observed: ObservedState, now: float = 0.0) -> list[object]:
    """Carry out the plan on willing machines until there is nothing to do."""
    done: list[object] = []
    for _ in range(1000):
        action = plan(wanted, observed, now)
        if action is None:
            return done
        done.append(action)
        carry_out(action, observed, now)
    raise AssertionError("the plan does not come to an end")


def carry_out(action: object, observed: ObservedState, now: float) -> None:
    match action:
        case DecidePlacement(decision, basis):
            observed.decided[decision.model], observed.basis[decision.model] = decision, basis
        case StartProcess(wish):
            observed.tried[wish.node, wish.process] = now
            old = observed.nodes[wish.node]
            new = machine(wish.node, processes=(wish.process,))
            observed.nodes = {**observed.nodes, wish.node: msgspec.structs.replace(old, processes=new.processes)}
        case StopProcess(wish):
            observed.tried[wish.node, wish.process] = now
            old = observed.nodes[wish.node]
            left = [known for known in old.processes if known.process != wish.process]
            observed.nodes = {**observed.nodes, wish.node: msgspec.structs.replace(old, processes=left)}


def decision_of(observed: ObservedState) -> PlacementDecided:
    return observed.decided["big"]


def nodes_of(decision: PlacementDecided) -> set[str]:
    return {piece.node for piece in decision.slices if piece.end > piece.first}


def test_a_model_is_placed_its_workers_started_and_then_there_is_peace() -> None:
    observed = seeing(machine("desk", 8), machine("attic", 4, gpu=24))
    first, second = settle(wanting(), observed)
    assert isinstance(first, DecidePlacement)
    assert isinstance(second, StartProcess)
    assert (second.wish.node, second.wish.process) == ("attic", PROCESS)
    assert plan(wanting(), observed, 0.0) is None


def test_memory_that_the_model_itself_takes_is_no_reason_to_move_it() -> None:
    observed = seeing(machine("desk", 8), machine("attic", 4, gpu=24))
    settle(wanting(), observed)
    attic = observed.nodes[NodeId("attic")]
    full = [msgspec.structs.replace(gpu, free=GIB) for gpu in attic.gpus]
    observed.nodes = {**observed.nodes, attic.node: msgspec.structs.replace(attic, gpus=full)}
    assert plan(wanting(), observed, 1.0) is None


def test_what_one_model_has_mapped_is_not_planned_again_for_another() -> None:
    """Mapped weights count as free memory; what was promised bounds that."""
    (first,) = wanting(PoolConfig()).models
    second = replace(first, name="second")
    observed = seeing(machine("desk", 24))
    settle(wanting(PoolConfig()), observed)
    facts = observed.nodes[DESK]
    memory = msgspec.structs.replace(facts.memory, available=int(23.5 * GIB))
    observed.nodes, observed.served = {DESK: msgspec.structs.replace(facts, memory=memory)}, {"big"}
    both = replace(wanting(PoolConfig()), models=(first, second))
    assert decide(both, observed, first).slices == decision_of(observed).slices, "its own memory is free for it"
    assert decide(both, observed, second).missing_bytes > 16 * GIB
    spares = {"big": msgspec.structs.replace(decision_of(observed), slices=[], spares=decision_of(observed).slices)}
    assert decide(both, replace(observed, decided=spares), second).missing_bytes > 16 * GIB


def test_a_model_without_a_place_looks_again_when_another_gives_some_up() -> None:
    """The memory that is free need not change for that: weights that were mapped count as free before and after."""
    (first,) = wanting(PoolConfig()).models
    second = replace(first, name="second")
    observed = seeing(machine("desk", 24))
    settle(wanting(PoolConfig()), observed)
    both = replace(wanting(PoolConfig()), models=(first, second))
    settle(both, observed)
    assert observed.decided["second"].missing_bytes
    observed.decided["big"] = msgspec.structs.replace(decision_of(observed), slices=[])
    settle(replace(both, models=(second,)), observed, 60.0)
    assert not observed.decided["second"].missing_bytes


def test_a_machine_that_leaves_changes_the_plan_and_one_that_comes_heals_it() -> None:
    observed = seeing(machine("desk", 8), machine("attic", 4, gpu=24))
    settle(wanting(), observed)
    observed.nodes = {DESK: machine("desk", 8)}
    (told,) = settle(wanting(), observed)
    assert isinstance(told, DecidePlacement)
    assert told.decision.missing_bytes > 10 * GIB
    assert "of memory are missing" in told.decision.notes[0]
    observed.nodes = {DESK: machine("desk", 8), NodeId("cellar"): machine("cellar", 4, gpu=24)}
    actions = settle(wanting(), observed, 10.0)
    assert [type(action) for action in actions] == [DecidePlacement, StartProcess]
    assert nodes_of(decision_of(observed)) == {"cellar"}


def test_workers_that_nobody_needs_are_ended_and_those_of_others_left_alone() -> None:
    observed = seeing(machine("desk", 64, gpu=48), machine("attic", processes=("rpc.pool.old", "rpc.50052")))
    actions = settle(wanting(), observed)
    assert [action.wish.process for action in actions if isinstance(action, StopProcess)] == ["rpc.pool.old"]


def test_a_machine_that_does_not_answer_is_asked_again_but_not_all_the_time() -> None:
    observed = seeing(machine("desk", 8), machine("attic", 4, gpu=24))
    decided = plan(wanting(), observed, 0.0)
    carry_out(decided, observed, 0.0)
    observed.tried[NodeId("attic"), PROCESS] = 0.0
    assert plan(wanting(), observed, 1.0) is None
    assert isinstance(plan(wanting(), observed, 6.0), StartProcess)


def test_only_machines_that_lend_are_used_or_those_that_are_played_on_this_one() -> None:
    nodes = (machine("desk", 8), machine("attic", 4, gpu=24))
    alone = msgspec.structs.replace(nodes[1], lends=False)
    careful = decide(wanting(), seeing(nodes[0], alone), wanting().models[0])
    assert careful.missing_bytes
    assert any("attic is left out: its workers and stages listen for itself" in note for note in careful.notes)
    played = msgspec.structs.replace(alone, machine="desk")
    assert nodes_of(decide(wanting(), seeing(nodes[0], played), wanting().models[0])) == {"attic"}
    ring = decide(wanting(PoolConfig()), seeing(*nodes), wanting().models[0])
    assert nodes_of(ring) == {"attic"}
    actions = settle(wanting(PoolConfig()), seeing(*nodes))
    (stage,) = [action.wish for action in actions if isinstance(action, StartProcess)]
    assert (stage.node, stage.kind) == ("attic", ProcessKind.STAGE)
    assert stage.process.startswith("stage.pool.big.0-20.head.")


def test_each_stage_is_told_its_device_and_is_another_where_anything_else_is_wanted_of_it() -> None:
    wanted = wanting(PoolConfig())
    nodes = (machine("desk", 8), machine("attic", 24, gpu=8))

    def stages(wanted: WantedState, *nodes: NodeFacts) -> dict[str, str]:
        wishes = [action.wish for action in settle(wanted, seeing(*nodes)) if isinstance(action, StartProcess)]
        return {wish.process: wish.stage.device for wish in wishes if wish.stage is not None}

    first = stages(wanted, *nodes)
    assert sorted(first.values()) == ["CPU", "CUDA0"]
    assert stages(wanted, *nodes) == first
    (model,) = wanted.models
    for other in (
        replace(model, ctx=model.ctx // 2),
        replace(model, file=ModelFile(name="big", path="/big.gguf", size_bytes=1, hash="other")),
        replace(model, exact=False),
    ):
        assert not first.keys() & stages(replace(wanted, models=(other,)), *nodes).keys()


def test_machines_whose_engines_do_not_understand_each_other_are_kept_apart() -> None:
    def with_rpc(facts: NodeFacts, version: str) -> NodeFacts:
        return msgspec.structs.replace(facts, builds=[Build(name="engine", rpc=version)])

    nodes = [
        with_rpc(machine(name, 4), version) for name, version in (("desk", "7.0.0"), ("old", "6.2.0"), ("odd", "x"))
    ]
    found = find_devices(
        [*nodes, with_rpc(machine("new", 4), "7.1.0"), with_rpc(machine("same", 4), "7.0.3")], RPC, DESK
    )
    assert [device.node for device in found.devices] == ["desk", "same"]
    assert found.notes[2].startswith("old is left out: its engine speaks RPC 6.2.0, the one at home 7.0.0; update")


def moving(ram: float = 64) -> tuple[WantedState, ObservedState, str]:
    """A model that is to move at 10 s, and the process over which it serves."""
    wanted = wanting(PoolConfig(split="even"))
    observed = seeing(machine("desk", ram))
    settle(wanted, observed)
    observed.looked(1.0)
    (old,) = observed.nodes[DESK].processes
    observed.nodes = {**observed.nodes, NodeId("attic"): machine("attic", 64)}
    carry_out(plan(wanted, observed, 10.0), observed, 10.0)
    observed.changed_at["big"] = 10.0
    return wanted, observed, old.process


def now_running(observed: ObservedState, now: float, **states: str) -> None:
    """The slices as they were decided, in these states, beside all that runs."""
    for piece in decision_of(observed).slices:
        facts = observed.nodes[piece.node]
        new = ProcessFacts(process=piece.process, kind=ProcessKind.STAGE, state=states[piece.node])
        others = [known for known in facts.processes if known.process != piece.process]
        changed = msgspec.structs.replace(facts, processes=[*others, new])
        observed.nodes = {**observed.nodes, piece.node: changed}
    observed.looked(now)


def test_what_a_model_moves_away_from_stays_until_everything_new_is_ready_and_was_so_for_a_while() -> None:
    wanted, observed, old = moving()
    assert isinstance(plan(wanted, observed, 11.0), StartProcess), "the old stage stays beside the new one"
    now_running(observed, 12.0, desk="ready", attic="starting")
    assert plan(wanted, observed, 10_000.0) is None, "one that never comes up ends nothing"
    now_running(observed, 20_000.0, desk="ready", attic="ready")
    assert plan(wanted, observed, 20_000.0 + MOVE_S - 1) is None
    stop = plan(wanted, observed, 20_000.0 + MOVE_S)
    assert isinstance(stop, StopProcess)
    assert (stop.wish.node, stop.wish.process) == (DESK, old)


def test_what_a_model_moves_away_from_gives_way_where_there_is_no_room() -> None:
    wanted, observed, old = moving()
    memory = msgspec.structs.replace(observed.nodes[DESK].memory, available=GIB)
    observed.nodes = {**observed.nodes, DESK: msgspec.structs.replace(observed.nodes[DESK], memory=memory)}
    stop = plan(wanted, observed, 11.0)
    assert isinstance(stop, StopProcess)
    assert stop.wish.process == old


def test_what_never_got_ready_is_not_kept_for_a_move() -> None:
    wanted, observed, old = moving()
    now_running(observed, 11.0, desk="starting", attic="starting")
    (half_loaded,) = (piece for piece in decision_of(observed).slices if piece.node == DESK)
    observed.nodes = {**observed.nodes, NodeId("cellar"): machine("cellar", 64)}
    carry_out(plan(wanted, observed, 12.0), observed, 12.0)
    stopped = [action.wish.process for action in settle(wanted, observed, 30.0) if isinstance(action, StopProcess)]
    assert half_loaded.process in stopped
    assert old not in stopped


def test_another_coordinator_leaves_a_move_its_time() -> None:
    wanted, observed, old = moving()
    now_running(observed, 12.0, desk="ready", attic="ready")
    later = ObservedState(nodes=observed.nodes, decided=observed.decided, basis=observed.basis)
    later.looked(5000.0)
    assert plan(wanted, later, 5000.0 + MOVE_S - 1) is None
    stop = plan(wanted, later, 5000.0 + MOVE_S)
    assert isinstance(stop, StopProcess)
    assert stop.wish.process == old


def test_evenly_means_over_the_gpus_of_machines_that_have_one() -> None:
    observed = seeing(machine("desk", 64), machine("attic", 64, gpu=24), machine("cellar", 64, gpu=24))
    settle(wanting(PoolConfig(split="even", layers_at_home=False)), observed)
    devices = [(piece.node, piece.device) for piece in decision_of(observed).slices if piece.end > piece.first]
    assert devices == [("attic", "CUDA0"), ("cellar", "CUDA0")]
    small = seeing(machine("desk", 64), machine("attic", 64, gpu=0.1), machine("cellar", 64, gpu=0.1))
    settle(wanting(PoolConfig(split="even", layers_at_home=False)), small)
    assert "CPU" in {piece.device for piece in decision_of(small).slices}, "what does not fit there goes elsewhere"


def test_evenly_in_the_order_that_latency_suggests_but_not_by_every_measurement() -> None:
    observed = seeing(*(machine(name, 64) for name in ("desk", "attic", "cellar", "shed")))
    observed.links = {"attic": MachineLink(0.05), "cellar": MachineLink(0.0004), "shed": MachineLink(0.0003)}
    settle(wanting(PoolConfig(split="even")), observed)
    assert [piece.node for piece in decision_of(observed).slices] == ["desk", "cellar", "shed", "attic"]


def test_a_missing_agent_at_home_tears_nothing_down() -> None:
    observed = seeing(machine("desk", 8), machine("attic", 4, gpu=24))
    settle(wanting(), observed)
    observed.nodes = {NodeId("attic"): observed.nodes[NodeId("attic")]}
    assert plan(wanting(), observed, 20.0) is None


def test_a_model_is_served_where_its_speculator_is_whoever_coordinates() -> None:
    observed = seeing(machine("desk", 4), machine("attic", 64))
    settle(wanting(), observed)
    assert decision_of(observed).home == "desk"
    observed.homes = {"big": NodeId("attic")}
    settle(wanting(), observed, 20.0)
    decision = decision_of(observed)
    assert (decision.home, nodes_of(decision)) == ("attic", {"attic"})
    assert all(not known.processes for known in observed.nodes.values())
    observed.homes = {}
    settle(wanting(), observed, 40.0)
    assert decision_of(observed).home == "attic"


def test_configured_devices_win_over_what_was_found() -> None:
    pool = PoolConfig(
        gpus=(GpuConfig(vram_gb=99, name="dream"),), workers=(WorkerConfig(host="attic", gpus=(GpuConfig(vram_gb=6),)),)
    )
    found = find_devices([machine("attic", gpu=24), machine("desk", gpu=8)], pool, DESK)
    assert [(device.node, device.free // GIB) for device in found.devices] == [("desk", 99), ("attic", 6)]
    assert "CUDA0 99 GB, but the largest found has 8.0" in found.notes[0]


def test_a_gpu_is_as_fast_as_its_memory_was_measured() -> None:
    known, unknown = (GpuFacts(name="g", backend="cuda", free=GIB, bandwidth=speed) for speed in (10**12, 0))
    speeds = []
    for gpu in (known, unknown):
        found = find_devices([msgspec.structs.replace(machine("desk", 16), gpus=[gpu])], PoolConfig(), DESK)
        speeds.append(found.devices[0].speed)
    assert speeds == [GPU_SHARE * 10**12, GPU_SPEEDS["cuda"]]


def test_shared_memory_is_counted_once() -> None:
    mac = machine("desk", 16)
    mac = msgspec.structs.replace(
        mac, gpus=[GpuFacts(name="M2", backend="metal", total=12 * GIB, free=12 * GIB, shared=True)]
    )
    found = find_devices([mac], PoolConfig(), DESK)
    assert [device.name for device in found.devices] == ["MTL0"]
    assert found.devices[0].free + found.homes["desk"].free <= 16 * GIB


@pytest.mark.parametrize(
    ("wanted", "nodes", "text"),
    [
        (wanting(shape=None), (machine("desk"),), "the file is gone"),
        (wanting(), (machine("attic"),), "the agent of desk is not on the bus"),
        (wanting(PoolConfig(split=(1.0, 1.0))), (machine("desk"),), "2 shares for 1 devices (desk/CPU)"),
    ],
)
def test_what_cannot_be_placed_is_told_in_words(wanted: WantedState, nodes: tuple[NodeFacts, ...], text: str) -> None:
    (told,) = settle(wanted, seeing(*nodes))
    assert isinstance(told, DecidePlacement)
    assert told.decision.missing_bytes
    assert text in told.decision.notes[0]


def test_the_right_to_act_ends_before_others_may_take_it() -> None:
    assert may_act(10.0, 8.0, lease_s=5.0)
    assert not may_act(10.0, 7.0, lease_s=5.0)
    assert not may_act(10.0, float("-inf"), lease_s=5.0)


@pytest.mark.parametrize("seed", range(5))
def test_machines_come_and_go_and_the_plan_always_settles_within_memory(seed: int) -> None:
    dice = random.Random(seed)
    wanted = wanting()
    observed = seeing(machine("desk", 4))
    for turn in range(40):
        others = [machine(f"n{i}", dice.uniform(1, 8), gpu=dice.choice((0, 4, 12))) for i in range(dice.randrange(12))]
        kept = {facts.node: observed.nodes.get(facts.node, facts) for facts in others}
        observed.nodes = {DESK: machine("desk", 4), **kept}
        settle(wanted, observed, now=10.0 * turn)
        for piece in decision_of(observed).slices:
            assert piece.weight_bytes + piece.kv_bytes + piece.other_bytes <= piece.free_bytes
            assert piece.node in observed.nodes


def test_a_hundred_machines_are_decided_about_quickly() -> None:
    nodes = [machine("desk", 8), *(machine(f"n{i:03}", 8, gpu=2 + i % 3) for i in range(99))]
    began = time.perf_counter()
    action = plan(wanting(), seeing(*nodes), 0.0)
    print(f"plan for 100 machines: {1000 * (time.perf_counter() - began):.1f} ms")
    assert isinstance(action, DecidePlacement)
    assert not action.decision.missing_bytes
