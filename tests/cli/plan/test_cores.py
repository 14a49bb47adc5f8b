"""`twd plan` tells who would share cores, and with how many threads."""

from typing import Any

from twd.cli.plan.cores import planned_lines
from twd.settings.model import DrafterConfig
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.node import CpuFacts, NodeFacts
from twd.wire.placement import PlacementDecided, Slice


def machine(name: str, computer: str = "", cores: int = 2) -> NodeFacts:
    return NodeFacts(
        node=NodeId(name), instance=InstanceId(name), machine=computer or name, pid=1, cpu=CpuFacts(cores=cores)
    )


def ring(*nodes: str, **given: Any) -> PlacementDecided:
    slices = [
        Slice(node=NodeId(node), device="CPU", first=4 * at, end=4 * at + 4, process=f"s{at}")
        for at, node in enumerate(nodes)
    ]
    return PlacementDecided(
        model=ModelId("m"), coordinator=InstanceId("c"), slices=slices, engine="ring", home=NodeId("a"), **given
    )


def lines(decision: PlacementDecided, *machines: NodeFacts, drafters: tuple[DrafterConfig, ...] = ()) -> list[str]:
    return planned_lines(decision, {facts.node: facts for facts in machines}, drafters)


QUICK = DrafterConfig(name="quick", path="/q.gguf")


def test_machines_that_are_one_computer_share_its_cores() -> None:
    told = lines(ring("a", "b"), machine("a", "box"), machine("b", "box"), drafters=(QUICK,))
    assert told == [
        "stage of layers 0-3 on a: 1 thread, on the cores of drafter quick, stage m",
        "stage of layers 4-7 on b: 1 thread, on the cores of drafter quick, stage m",
        "drafter quick on a: 1 thread, on the cores of 2 x stage m, to whom it gives way",
    ]


def test_machines_of_their_own_share_nothing() -> None:
    assert lines(ring("a", "b"), machine("a"), machine("b")) == []


def test_a_target_and_its_drafter_take_turns() -> None:
    alone = PlacementDecided(
        model=ModelId("m"),
        coordinator=InstanceId("c"),
        slices=[Slice(node=NodeId("a"), device="CPU", first=0, end=8)],
        home=NodeId("a"),
    )
    (target, drafter) = lines(alone, machine("a"), drafters=(QUICK,))
    assert target.startswith("target of layers 0-7 on a: 2 threads, on the cores of drafter quick")
    assert drafter.startswith("drafter quick on a: 2 threads")


def test_drafters_elsewhere_and_those_of_servers_are_left_out() -> None:
    away = DrafterConfig(name="far", path="/q.gguf", node="attic")
    server = DrafterConfig(name="server", url="http://127.0.0.1:1")
    other = DrafterConfig(name="other", path="/q.gguf", for_model="n")
    assert lines(ring("a"), machine("a"), drafters=(away, server, other)) == []
