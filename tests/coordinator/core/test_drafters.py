"""Draft models on machines of a pool: on idle ones, one each, where the file is, and nowhere else."""

from typing import Any

import msgspec
import pytest

from tests.coordinator.machines import DESK, GIB, SHAPE, machine
from tests.coordinator.test_churn import FILE, settle
from twd.coordinator.core.drafters import WantedDrafter, process_name
from twd.coordinator.core.plan import plan
from twd.coordinator.core.process_reconciler import idle_drafters
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import ObservedState, StopProcess, WantedState
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import Build, ModelFile, NodeFacts, ProcessKind

QUICK = ModelFile(name="quick", path="/models/quick.gguf", size_bytes=GIB, hash="q" * 32)


def drafter(name: str = "quick", **fields: Any) -> WantedDrafter:
    given: dict[str, Any] = {"process": process_name(name, QUICK, 0), "file": QUICK, "name": name, **fields}
    return WantedDrafter(**given)


def wanting(*drafters: WantedDrafter) -> WantedState:
    model = WantedModel("big", 4096, 1, SHAPE, file=FILE)
    pool = PoolConfig(engine="ring", split="even", layers_at_home=False)
    return WantedState(DESK, InstanceId("coordinator.desk.x"), pool, (model,), drafters)


def box(name: str, *files: ModelFile, ram: float = 32, gpu: float = 0) -> NodeFacts:
    return msgspec.structs.replace(machine(name, ram, gpu), models=list(files))


def seeing(*nodes: NodeFacts) -> ObservedState:
    return ObservedState(nodes={facts.node: facts for facts in nodes})


def hosts(observed: ObservedState, wanted: WantedState) -> dict[str, list[str]]:
    """By drafter: the machines that run it."""
    return {
        one.name: [
            facts.node for facts in observed.nodes.values() if one.process in {p.process for p in facts.processes}
        ]
        for one in wanted.drafters
    }


def settled(wanted: WantedState, observed: ObservedState, now: float = 0.0) -> dict[str, list[str]]:
    settle(wanted, observed, now)
    return hosts(observed, wanted)


def test_an_idle_machine_is_taken_rather_than_one_of_the_pool() -> None:
    wanted = wanting(drafter())
    observed = seeing(box("desk", ram=2), box("attic", FILE, QUICK, gpu=24), box("shed", QUICK, ram=8))
    assert settled(wanted, observed) == {"quick": ["shed"]}
    assert {piece.node for piece in observed.decided["big"].slices} == {"attic"}
    (process,) = observed.nodes[NodeId("shed")].processes
    assert process.kind is ProcessKind.DRAFTER


def test_without_an_idle_one_the_pool_has_to_do_it() -> None:
    wanted = wanting(drafter())
    observed = seeing(box("desk", ram=0.3), box("attic", FILE, QUICK, gpu=24))
    assert settled(wanted, observed) == {"quick": ["attic"]}
    observed.nodes = {**observed.nodes, NodeId("shed"): box("shed", QUICK)}
    observed.basis["big"] = ""
    assert settled(wanted, observed, 20.0) == {"quick": ["shed"]}, "it goes where it is in nobody's way"


def test_each_of_two_has_a_machine_of_its_own_and_the_larger_gpu_counts() -> None:
    first, second = drafter("first"), drafter("second", process=process_name("second", QUICK, 1))
    wanted = wanting(first, second)
    nodes = (box("desk", ram=0.3), box("attic", FILE, gpu=24), box("shed", QUICK), box("den", QUICK, gpu=8))
    assert settled(wanted, seeing(*nodes)) == {"first": ["den"], "second": ["shed"]}


@pytest.mark.parametrize(("backends", "host"), [(["CUDA", "CPU"], "den"), (["CPU"], "shed")])
def test_a_card_counts_where_the_engine_was_built_for_it(backends: list[str], host: str) -> None:
    den = msgspec.structs.replace(box("den", QUICK, ram=8, gpu=24), builds=[Build(name="engine", backends=backends)])
    observed = seeing(box("desk", ram=2), box("attic", FILE, gpu=24), box("shed", QUICK, ram=16), den)
    assert settled(wanting(drafter()), observed) == {"quick": [host]}


def test_it_moves_when_its_machine_leaves_and_stays_otherwise() -> None:
    wanted = wanting(drafter())
    observed = seeing(box("desk", ram=2), box("attic", FILE, gpu=24), box("shed", QUICK, ram=8))
    settled(wanted, observed)
    observed.nodes = {**observed.nodes, NodeId("den"): box("den", QUICK, ram=64, gpu=24)}
    assert settled(wanted, observed, 20.0) == {"quick": ["shed"]}, "a better one is no reason"
    observed.nodes = {node: facts for node, facts in observed.nodes.items() if node != "shed"}
    assert settled(wanted, observed, 40.0) == {"quick": ["den"]}


def test_one_that_runs_twice_is_ended_once() -> None:
    wanted = wanting(drafter())
    observed = seeing(box("desk", ram=2), box("attic", FILE, gpu=24), box("shed", QUICK))
    settled(wanted, observed)
    (process,) = observed.nodes[NodeId("shed")].processes
    twin = msgspec.structs.replace(box("den", QUICK), processes=[process])
    observed.nodes = {**observed.nodes, NodeId("den"): twin}
    assert len(settled(wanted, observed, 20.0)["quick"]) == 1


def test_one_that_nobody_wants_any_more_is_ended_at_once() -> None:
    wanted = wanting(drafter("big"))
    observed = seeing(box("desk", ram=2), box("attic", FILE, gpu=24), box("shed", QUICK))
    settled(wanted, observed)
    observed.changed_at["big"] = 20.0
    assert isinstance(plan(wanting(), observed, 20.0), StopProcess)


@pytest.mark.parametrize(
    ("fields", "nodes", "host"),
    [
        ({"node": "attic"}, (box("attic"), box("shed", QUICK)), "attic"),
        ({}, (box("shed", msgspec.structs.replace(QUICK, hash="o" * 32)),), "desk"),
        ({}, (box("shed", QUICK, ram=1.2),), "desk"),
    ],
)
def test_the_file_the_room_and_the_owners_word_decide(
    fields: dict[str, str], nodes: tuple[NodeFacts, ...], host: str
) -> None:
    wanted = wanting(drafter(**fields))
    assert settled(wanted, seeing(box("desk"), *nodes)) == {"quick": [host]}
    assert idle_drafters(wanted, seeing(box("desk"), *nodes)) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"node": "barn"}, "drafter quick: its machine barn is not on the bus"),
        (
            {"file": msgspec.structs.replace(QUICK, problem="it is not there", hash="", size_bytes=0)},
            "drafter quick runs nowhere: copy /models/quick.gguf into a folder of agent.model_dirs of a machine",
        ),
    ],
)
def test_one_that_runs_nowhere_says_why(fields: dict[str, Any], text: str) -> None:
    wanted, observed = wanting(drafter(**fields)), seeing(box("desk"), box("attic", FILE))
    assert settled(wanted, observed) == {"quick": []}
    (told,) = idle_drafters(wanted, observed)
    assert text in told


def test_its_process_is_named_after_its_file_too() -> None:
    other = msgspec.structs.replace(QUICK, hash="r" * 32)
    assert process_name("Quick One", QUICK, 0) == "drafter.pool.Quick-One.0.qqqqqqqq"
    assert len({process_name("a", file, n) for file in (QUICK, other) for n in (0, 1)}) == 4
