"""Agents that share a computer: what they share is planned with once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator.machines import DESK, GIB, RPC, SHAPE, machine, seeing, wanting
from twd.coordinator.core.machines.computers import counted_once, shared, told_once
from twd.coordinator.core.model_placement import decide
from twd.wire.base import NodeId
from twd.wire.node import GpuFacts, NodeFacts

ATTIC = NodeId("attic")


def gpu(index: int = 0, place: str = "", name: str = "RTX") -> GpuFacts:
    return GpuFacts(name=name, backend="cuda", index=index, total=8 * GIB, free=8 * GIB, place=place)


def on(name: str, *gpus: GpuFacts, ram: float = 8, host: float = 0, computer: str = "one") -> NodeFacts:
    facts = machine(name, ram)
    memory = msgspec.structs.replace(facts.memory, host_available=int(host * GIB))
    return msgspec.structs.replace(facts, computer=computer, gpus=list(gpus), memory=memory)


def once(*nodes: NodeFacts, used: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """What counts where, in words: memory in GiB, then the places or indices of devices."""
    counted = counted_once({facts.node: facts for facts in nodes}, used, [DESK])
    assert list(counted) == [facts.node for facts in nodes]
    devices = {node: [one.place or str(one.index) for one in facts.gpus] for node, facts in counted.items()}
    return {node: " ".join([f"{facts.memory.available / GIB:g}", *devices[node]]) for node, facts in counted.items()}


@pytest.mark.parametrize(
    ("nodes", "counts"),
    [
        ((on("desk"), on("attic")), {"desk": "8", "attic": "0"}),
        ((on("desk"), on("attic", computer="two")), {"desk": "8", "attic": "8"}),
        ((on("desk", computer=""), on("attic", computer="")), {"desk": "8", "attic": "8"}),
        ((on("b"), on("a")), {"b": "0", "a": "8"}),
        ((on("desk", ram=4, host=16), on("attic", ram=4, host=16)), {"desk": "4", "attic": "4"}),
        ((on("desk", ram=4, host=6), on("attic", ram=4, host=6)), {"desk": "4", "attic": "2"}),
        ((on("desk", ram=4, host=16), on("attic", ram=16, host=16)), {"desk": "4", "attic": "12"}),
        ((on("desk", gpu()), on("attic", gpu())), {"desk": "8 0", "attic": "0"}),
        ((on("desk", gpu()), on("attic", gpu(), computer="two")), {"desk": "8 0", "attic": "8 0"}),
        ((on("desk", gpu(0, "p")), on("attic", gpu(0, "q"))), {"desk": "8 p", "attic": "0 q"}),
        ((on("desk", gpu(1, "p")), on("attic", gpu(0, "q"), gpu(3, "p"))), {"desk": "8 p", "attic": "0 q"}),
        ((on("desk", gpu(0, "p")), on("attic", gpu(0, "p", "Vulkan's name"))), {"desk": "8 p", "attic": "0"}),
    ],
)
def test_what_is_shared_counts_once(nodes: tuple[NodeFacts, ...], counts: dict[str, str]) -> None:
    assert once(*nodes) == counts


def test_what_is_used_stays_with_whom_it_serves() -> None:
    pair = (on("desk", gpu(0, "p")), on("attic", gpu(0, "p")))
    assert once(*pair, used=(("attic", "CPU"),)) == {"desk": "0 p", "attic": "8"}
    assert once(*pair, used=(("attic", "CUDA0"),)) == {"desk": "8", "attic": "0 p"}


def test_a_guest_is_no_agents_computer() -> None:
    guest = msgspec.structs.replace(on("shelf"), guest=True)
    assert shared([on("desk"), guest]) == []


def test_machines_that_share_are_named() -> None:
    assert list(told_once([on("desk"), on("shelf", computer="two"), on("attic")])) == [
        "attic and desk are one computer: what they share counts once"
    ]


SIZES = st.integers(0, 40)


@given(st.lists(st.tuples(SIZES, SIZES, st.sampled_from(["", "one", "two"])), max_size=6))
def test_no_computer_gives_more_than_it_has(told: list[tuple[int, int, str]]) -> None:
    nodes = [on(f"n{i}", gpu(0, "p"), ram=r, host=max(r, host), computer=c) for i, (r, host, c) in enumerate(told)]
    counted = counted_once({facts.node: facts for facts in nodes}, (), [])
    for group in shared(nodes):
        members = [counted[facts.node] for facts in group]
        assert sum(facts.memory.available for facts in members) <= min(facts.memory.host_available for facts in group)
        assert sum(len(facts.gpus) for facts in members) == 1
    assert all(counted[facts.node].memory.available <= facts.memory.available for facts in nodes)
    assert all(counted[facts.node] == facts for facts in nodes if not facts.computer)


def test_a_model_that_fits_into_none_does_not_fit_into_one_computer_that_is_told_twice() -> None:
    wanted = wanting(RPC)
    (model,) = wanted.models
    assert sum(SHAPE.layer_bytes) > 16 * GIB
    nodes = {facts.node: facts for facts in (on(DESK, ram=16), on(ATTIC, ram=16))}
    observed = seeing(*nodes.values())
    assert not decide(wanted, observed, model).missing_bytes
    observed.nodes = counted_once(nodes, (), [DESK])
    refused = decide(wanted, observed, model)
    assert refused.missing_bytes
    assert "attic and desk are one computer: what they share counts once" in refused.notes
