"""A hundred machines that come, go and change while models lie on them: the plan converges and nothing overflows."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.coordinator.machines import DESK, GIB, machine
from twd.coordinator.core.machines.device_names import device_name
from twd.coordinator.core.memory_ledger import total
from twd.coordinator.core.placement.values import ModelShape
from twd.coordinator.core.plan import plan
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import DecidePlacement, ObservedState, StartProcess, StopProcess, WantedState
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import Build, ModelFile, NodeFacts, ProcessFacts, ProcessKind

NODES = 100
TURNS = 25
FILE = ModelFile(name="big", path="big.gguf", size_bytes=1, hash="b" * 32)


def wanting(engine: str, standby: int = 0) -> WantedState:
    """A big model and a small one over one pool."""
    shapes = (
        ModelShape("big", (GIB,) * 40, GIB // 4, GIB // 4, 4096, 32_000, 4096, 8192),
        ModelShape("small", (GIB // 8,) * 12, GIB // 16, GIB // 16, 1024, 32_000, 1024, 8192),
    )
    models = tuple(WantedModel(shape.name, 4096, 2, shape, file=FILE) for shape in shapes)
    split = "even" if engine == "ring" else "auto"
    pool = PoolConfig(engine=engine, trusted_lan=True, split=split, standby=standby)  # type: ignore[arg-type]
    return WantedState(DESK, InstanceId("coordinator.desk.x"), pool, models)


def drawn(dice: random.Random, name: str) -> NodeFacts:
    """Some machine; one in ten has another copy of the model's file."""
    facts = machine(name, dice.uniform(2, 64), gpu=dice.choice((0, 0, 8, 24)))
    copy = msgspec.structs.replace(FILE, hash="c" * 32) if dice.random() < 0.1 else FILE
    return msgspec.structs.replace(facts, models=[copy], cpu=msgspec.structs.replace(facts.cpu, bandwidth=0))


def churn(dice: random.Random, nodes: dict[NodeId, NodeFacts]) -> dict[NodeId, NodeFacts]:
    """Some leave, some come, some lose processes, some memory is taken by others."""
    kept = {node: facts for node, facts in nodes.items() if node == DESK or dice.random() > 0.15}
    for node, facts in kept.items():
        if dice.random() < 0.1:
            kept[node] = msgspec.structs.replace(facts, processes=[])
        if not facts.processes and dice.random() < 0.1:
            free = int(facts.memory.total * dice.uniform(0.1, 1.0))
            kept[node] = msgspec.structs.replace(
                kept[node], memory=msgspec.structs.replace(facts.memory, available=free)
            )
    for number in range(NODES):
        name = NodeId(f"n{number:03}")
        if name not in kept and len(kept) <= NODES and dice.random() < 0.5:
            kept[name] = drawn(dice, name)
    return kept


def settle(wanted: WantedState, observed: ObservedState, now: float) -> None:
    """Willing machines, whose processes take their time to load."""
    for _ in range(3000):
        action = plan(wanted, observed, now)
        match action:
            case None:
                return
            case DecidePlacement(decision, basis):
                observed.decided[decision.place], observed.basis[decision.place] = decision, basis
            case StartProcess(wish):
                new = ProcessFacts(process=wish.process, kind=wish.kind, state="starting")
                observed.nodes = with_processes(observed, wish.node, [*processes(observed, wish.node), new])
            case StopProcess(unwanted):
                left = [known for known in processes(observed, unwanted.node) if known.process != unwanted.process]
                observed.nodes = with_processes(observed, unwanted.node, left)
    raise AssertionError("the plan does not come to an end")


def processes(observed: ObservedState, node: NodeId) -> list[ProcessFacts]:
    return observed.nodes[node].processes


def with_processes(observed: ObservedState, node: NodeId, known: list[ProcessFacts]) -> dict[NodeId, NodeFacts]:
    facts = msgspec.structs.replace(observed.nodes[node], processes=known)
    return {**observed.nodes, node: facts}


def overfull(observed: ObservedState) -> Iterator[str]:
    """Devices that are promised more than they have, over all models."""
    taken: dict[tuple[NodeId, str], int] = {}
    for decision in observed.decided.values():
        for piece in (*decision.slices, *decision.spares):
            key = (piece.node, piece.device)
            taken[key] = taken.get(key, 0) + total(piece)
            if piece.node not in observed.nodes:
                yield f"{decision.model}: {piece.node} is gone"
    for (node, device), bytes_ in taken.items():
        facts = observed.nodes[node]
        gpus = {device_name(gpu): gpu.free for gpu in facts.gpus}
        if bytes_ > gpus.get(device, facts.memory.available):
            yield f"{node}/{device} is promised {bytes_} of {gpus.get(device, facts.memory.available)}"


@pytest.mark.parametrize(
    ("engine", "standby"), [("rpc", 0), pytest.param("ring", 0, marks=pytest.mark.thorough), ("ring", 1)]
)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (0, 2))])
def test_the_plan_converges_through_all_changes_and_never_overflows(engine: str, standby: int, seed: int) -> None:
    dice = random.Random(seed)
    wanted = wanting(engine, standby)
    observed = ObservedState(nodes={DESK: drawn(dice, "desk")})
    slowest = 0.0
    for turn in range(TURNS):
        observed.nodes = churn(dice, dict(observed.nodes))
        began = time.perf_counter()
        plan(wanted, observed, 20.0 * turn)
        slowest = max(slowest, time.perf_counter() - began)
        settle(wanted, observed, 20.0 * turn)
        assert list(overfull(observed)) == []
        due = {(piece.node, piece.process) for d in observed.decided.values() for piece in d.slices if piece.process}
        running = {(f.node, p.process) for f in observed.nodes.values() for p in f.processes}
        spares = {(piece.node, piece.process) for d in observed.decided.values() for piece in d.spares}
        assert running - spares == due, "every process that is due runs, and no other"
    print(f"{engine}: slowest plan over {NODES} machines {1000 * slowest:.1f} ms")


def test_a_machine_with_another_file_gets_no_stage_and_is_named() -> None:
    wanted = wanting("ring")
    other = msgspec.structs.replace(machine("odd", 64), models=[msgspec.structs.replace(FILE, hash="c" * 32)])
    none = machine("bare", 64)
    nodes = [msgspec.structs.replace(machine("desk", 64), models=[FILE]), other, none]
    observed = ObservedState(nodes={facts.node: facts for facts in nodes})
    settle(wanted, observed, 0.0)
    decision = observed.decided["big"]
    assert {piece.node for piece in decision.slices} == {"desk"}
    assert "odd is left out: its big is another file than the one at home (cccccccc there, bbbbbbbb here)" in " ".join(
        decision.notes
    )
    assert "bare is left out: it has no copy of big" in " ".join(decision.notes)


def test_a_copy_that_comes_later_is_noticed_and_one_that_goes_ends_nothing() -> None:
    def having(node: NodeFacts, *files: ModelFile) -> NodeFacts:
        return msgspec.structs.replace(node, models=list(files))

    wanted = wanting("ring")
    nodes = [having(machine("desk", 8), FILE), machine("attic", 64)]
    observed = ObservedState(nodes={facts.node: facts for facts in nodes})
    settle(wanted, observed, 0.0)
    assert "attic is left out: it has no copy of big" in " ".join(observed.decided["big"].notes)
    observed.nodes = {**observed.nodes, NodeId("attic"): having(observed.nodes[NodeId("attic")], FILE)}
    settle(wanted, observed, 20.0)
    after = observed.decided["big"]
    assert {piece.node for piece in after.slices} >= {"attic"}
    observed.nodes = {**observed.nodes, NodeId("attic"): having(observed.nodes[NodeId("attic")])}
    assert plan(wanted, observed, 40.0) is None
    assert observed.decided["big"] == after


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"lends": False}, {"lends": True}),
        ({"builds": [Build(name="engine", rpc="9.9.9")]}, {"builds": [Build(name="engine", rpc="7.0.0")]}),
        ({"builds": [Build(name="engine", backends=["CPU"])]}, {"builds": [Build(name="engine", backends=["CUDA"])]}),
    ],
)
def test_an_agent_that_comes_back_at_once_and_can_be_used_by_now_is_planned_with(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    home = msgspec.structs.replace(machine("desk", 4), builds=[Build(name="engine", rpc="7.0.0")])
    attic = machine("attic", 4, gpu=64)
    observed = ObservedState(nodes={DESK: home, NodeId("attic"): msgspec.structs.replace(attic, **before)})
    settle(wanting("rpc"), observed, 0.0)
    assert observed.decided["big"].missing_bytes
    observed.nodes = {DESK: home, NodeId("attic"): msgspec.structs.replace(attic, **now)}
    settle(wanting("rpc"), observed, 20.0)
    assert not observed.decided["big"].missing_bytes


def test_a_coordinator_that_has_no_file_ends_nothing_that_the_last_one_placed() -> None:
    wanted = wanting("ring")
    nodes = [msgspec.structs.replace(machine(name, 64), models=[FILE]) for name in ("desk", "attic")]
    observed = ObservedState(nodes={facts.node: facts for facts in nodes})
    settle(wanted, observed, 0.0)
    before = dict(observed.decided)
    models = tuple(replace(model, shape=None, file=None, problem="no such file") for model in wanted.models)
    elsewhere = replace(wanted, models=models, coordinator=InstanceId("coordinator.attic.x"))
    assert plan(elsewhere, observed, 100.0) is None
    lost = msgspec.structs.replace(observed.nodes[NodeId("attic")], processes=[])
    observed.nodes = {**observed.nodes, NodeId("attic"): lost}
    assert plan(elsewhere, observed, 200.0) is None, "which file is meant is not known here"
    assert observed.decided == before
    observed.decided.clear()
    told = plan(elsewhere, observed, 300.0)
    assert isinstance(told, DecidePlacement)
    assert told.decision.notes == ["no such file"]


def test_a_ghost_is_replaced_and_not_counted_twice() -> None:
    """A machine that comes back under its name has the processes that it says it has, not those of its past."""
    wanted = wanting("rpc")
    observed = ObservedState(nodes={DESK: machine("desk", 4), NodeId("attic"): machine("attic", 64)})
    settle(wanted, observed, 0.0)
    ghost = ProcessFacts(process="rpc.pool.gone", kind=ProcessKind.RPC, state="ready")
    back = msgspec.structs.replace(machine("attic", 64), processes=[ghost], instance=InstanceId("agent.attic.new"))
    observed.nodes = {DESK: observed.nodes[DESK], NodeId("attic"): back}
    settle(wanted, observed, 30.0)
    names = {known.process for known in observed.nodes[NodeId("attic")].processes}
    assert "rpc.pool.gone" not in names
    assert names == {piece.process for d in observed.decided.values() for piece in d.slices if piece.process}
