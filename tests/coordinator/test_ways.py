"""How far stages are from each other, by their own word: told, learned, and minded when a ring is laid out."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator.core.placement.test_search import GIB, MIB, cpu, demand, shape
from twd.bus.base import LeaseEntry
from twd.coordinator.core.observation import stage_leases, ways_between
from twd.coordinator.core.placement.search import place
from twd.coordinator.core.placement.timing import between
from twd.coordinator.core.placement.values import ASSUMED, MachineLink, PlacementDevice, pair
from twd.coordinator.links import LinkTable
from twd.stage.membership import RingMembership
from twd.wire.base import InstanceId, NodeId
from twd.wire.leases.workers import StageFacts
from twd.wire.ring import HopFacts, StageWay
from twd.wire.service import Health, ServiceLease

HOME = cpu("desk", 4)
SMALL = [PlacementDevice(node, "CPU", 3 * GIB, 20e9) for node in "abc"]


def lease(node: str, way: StageWay | None) -> LeaseEntry:
    value = ServiceLease(
        instance=InstanceId(f"stage.{node}.x"), service="stage", node=NodeId(node), pid=2, version="1", started_ms=1,
        renewed_ms=1, health=Health.OK, facts=StageFacts(next=way),
    )  # fmt: skip
    return LeaseEntry(value.instance, msgspec.json.encode(value), 1, 0.0)


def told(to: str, rtt_ms: float, bandwidth: int = 0) -> StageWay:
    return StageWay(to=InstanceId(f"stage.{to}.x"), rtt_ms=rtt_ms, bandwidth=bandwidth)


def test_a_stage_tells_how_far_the_next_one_is_once_it_knows() -> None:
    seat: Any = SimpleNamespace(_next=None, wired=SimpleNamespace(next_stage=InstanceId("stage.b.x")))
    assert RingMembership.way_on(seat) is None
    seat._next = SimpleNamespace(facts=lambda: HopFacts(to="next"))
    assert RingMembership.way_on(seat) is None
    seat._next = SimpleNamespace(facts=lambda: HopFacts(to="next", rtt_ms=9.0, rtt_min_ms=7.0, bandwidth=5))
    assert RingMembership.way_on(seat) == told("b", 7.0, 5)


def test_ways_are_read_from_the_leases_of_stages_and_nonsense_is_left_out() -> None:
    entries = [
        lease("a", told("b", 20.0)),
        lease("b", told("c", 1.0, 10**9)),
        lease("c", None),
        lease("d", told("gone", 1.0)),
        lease("e", told("e", 1.0)),
        LeaseEntry("stage.odd.x", b"{", 1, 0.0),
    ]
    links = LinkTable()
    links.learn_between(ways_between(stage_leases(entries)))
    assert links.known == {
        pair("b", "a"): MachineLink(0.02, ASSUMED.bytes_s),
        pair("b", "c"): MachineLink(0.001, 1e9, measured=True),
    }


def test_a_ring_goes_round_the_way_that_its_stages_found_to_be_long() -> None:
    model = shape(50)  # it takes all of them
    links = {node: MachineLink(0.002, 1e9) for node in "abc"}
    unknowing = [piece.device.node for piece in place(model, [HOME, *SMALL], links, demand(HOME)).pieces]
    a, b = next(two for two in pairwise(unknowing) if "desk" not in two)
    knowing = place(model, [HOME, *SMALL], links | {pair(a, b): MachineLink(0.2, 1e9, measured=True)}, demand(HOME))
    nodes = [piece.device.node for piece in knowing.pieces]
    assert knowing.fits
    assert {a, b} not in [set(two) for two in pairwise(nodes)]


def test_what_was_measured_between_two_machines_wins_and_the_rest_is_as_before() -> None:
    links = {"a": MachineLink(0.03, 1e8), "b": MachineLink(0.01, 1e7)}
    assert between("a", "b", "desk", links) == MachineLink(0.03, 1e7)
    assert between("b", "a", "desk", links | {pair("a", "b"): MachineLink(0.001)}) == MachineLink(0.001, 1e7)
    measured = MachineLink(0.001, 1e9, measured=True)
    assert between("b", "a", "desk", links | {pair("a", "b"): measured}) == measured
    assert between("desk", "a", "desk", links | {pair("desk", "a"): measured}) == links["a"]


@given(
    st.dictionaries(
        st.sampled_from(["a b", "a c", "b c"]), st.builds(MachineLink, st.floats(0, 1), st.floats(1e5, 1e10))
    )
)
def test_whatever_the_ways_are_the_same_layers_find_a_place(between: dict[str, MachineLink]) -> None:
    model = shape(40, 150 * MIB)
    links = {node: MachineLink(0.002, 1e9) for node in "abc"} | between
    found = place(model, [HOME, *SMALL], links, demand(HOME))
    assert found.fits
    assert found == place(model, [HOME, *SMALL], links, demand(HOME))
    ends = sorted((piece.first, piece.end) for piece in found.pieces if piece.end > piece.first)
    assert [first for first, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == 40
