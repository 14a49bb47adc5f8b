"""Spares of a ring: where they lie, when they start, and how they take over."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator.machines import DESK, GIB, machine, wanting
from tests.coordinator.test_churn import FILE, overfull, settle
from twd.coordinator.core.memory_ledger import left_on, total
from twd.coordinator.core.placement.values import ModelShape, PlacementDevice
from twd.coordinator.core.plan import plan
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.standby import carried, filled, promoted, trimmed, wants_more
from twd.coordinator.core.state import DecidePlacement, ObservedState, StartProcess, WantedState
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.node import NodeFacts, ProcessFacts, ProcessKind
from twd.wire.placement import PlacementDecided, Slice

SHAPE = ModelShape("big", (GIB,) * 20, GIB // 4, GIB // 4, 4096, 32_000, 4096, 8192)
Places = set[tuple[str, str]]


def ring(standby: int = 1, *models: WantedModel, **fields: object) -> WantedState:
    pool = PoolConfig(engine="ring", split="even", standby=standby, **fields)  # type: ignore[arg-type]
    known = models or (WantedModel("big", 4096, 1, SHAPE, file=FILE),)
    return WantedState(DESK, InstanceId("coordinator.desk.x"), pool, known)


def seeing(*names: str, ram: float = 32) -> ObservedState:
    nodes = [msgspec.structs.replace(machine(name, ram), models=[FILE]) for name in names]
    return ObservedState(nodes={facts.node: facts for facts in nodes})


def loaded(observed: ObservedState) -> None:
    """All processes that run have their slices in memory."""
    observed.nodes = {
        node: msgspec.structs.replace(
            facts, processes=[msgspec.structs.replace(one, state="ready") for one in facts.processes]
        )
        for node, facts in observed.nodes.items()
    }


def standing(wanted: WantedState, observed: ObservedState, now: float = 0.0) -> PlacementDecided:
    """All decided and loaded, the spares after the slices."""
    for _ in range(3):
        settle(wanted, observed, now)
        loaded(observed)
    assert plan(wanted, observed, now) is None
    return observed.decided["big"]


def places(pieces: list[Slice]) -> Places:
    return {(piece.node, piece.process) for piece in pieces}


def without(observed: ObservedState, node: str) -> dict[NodeId, NodeFacts]:
    return {name: facts for name, facts in observed.nodes.items() if name != node}


def lost_process(observed: ObservedState, piece: Slice) -> None:
    facts = observed.nodes[piece.node]
    broken = [
        msgspec.structs.replace(one, state="starting") if one.process == piece.process else one
        for one in facts.processes
    ]
    observed.nodes = {**observed.nodes, piece.node: msgspec.structs.replace(facts, processes=broken)}


def test_each_slice_has_its_spare_on_another_machine_and_idle_ones_come_first() -> None:
    decision = standing(ring(layers_at_home=False), seeing("desk", "attic", "cellar", "shed"))
    assert [piece.process for piece in decision.spares] == [piece.process for piece in decision.slices]
    assert all(a.node != b.node for a, b in zip(decision.slices, decision.spares, strict=True))
    two = standing(ring(), seeing("desk", "attic"))
    assert {(p.node, p.first) for p in two.slices} == {("desk", 0), ("attic", 10)}
    assert {(p.node, p.first) for p in two.spares} == {("desk", 10), ("attic", 0)}


def test_spares_start_when_all_slices_are_in_memory() -> None:
    wanted, observed = ring(), seeing("desk", "attic")
    settle(wanted, observed, 0.0)
    assert observed.decided["big"].spares
    assert all(len(facts.processes) == 1 for facts in observed.nodes.values())
    loaded(observed)
    action = plan(wanted, observed, 0.0)
    assert isinstance(action, StartProcess)
    assert (action.wish.node, action.wish.process) in places(observed.decided["big"].spares)
    assert action.wish.stage is not None
    assert action.wish.kind is ProcessKind.STAGE
    settle(wanted, observed, 0.0)
    assert all(len(facts.processes) == 2 for facts in observed.nodes.values())


def test_a_machine_that_leaves_is_replaced_by_its_spare_and_no_other_layer_moves() -> None:
    wanted, observed = ring(layers_at_home=False), seeing("desk", "attic", "cellar", "shed")
    before = standing(wanted, observed)
    gone = before.slices[0]
    spare = next(piece for piece in before.spares if piece.process == gone.process)
    observed.nodes = without(observed, gone.node)
    after = standing(wanted, observed, 20.0)
    assert [piece.node for piece in after.slices] == [
        spare.node if piece == gone else piece.node for piece in before.slices
    ]
    assert [piece.process for piece in after.slices] == [piece.process for piece in before.slices]
    assert gone.node not in {piece.node for piece in after.spares}
    assert gone.process in {piece.process for piece in after.spares}, "it gets another spare"


def test_a_machine_without_a_ready_spare_is_planned_around() -> None:
    wanted, observed = ring(), seeing("desk", "attic", "cellar")
    before = standing(wanted, observed)
    lost = next(piece for piece in before.slices if piece.node == "attic")
    lost_process(observed, next(piece for piece in before.spares if piece.process == lost.process))
    observed.nodes = without(observed, "attic")
    after = standing(wanted, observed, 20.0)
    assert lost.process not in {piece.process for piece in after.slices}


def test_a_lost_process_changes_places_with_its_spare_once_and_that_is_all() -> None:
    wanted, observed = ring(), seeing("desk", "attic")
    before = standing(wanted, observed)
    lost = before.slices[1]
    lost_process(observed, lost)
    action = plan(wanted, observed, 1.0)
    assert isinstance(action, DecidePlacement)
    assert places(action.decision.slices) == {("desk", lost.process), ("desk", before.slices[0].process)}
    after = standing(wanted, observed, 1.0)
    assert places(after.slices) == places(action.decision.slices), "what comes back is a spare now"
    assert lost in after.spares


def test_a_decision_that_is_made_anew_keeps_its_spares() -> None:
    wanted, observed = ring(), seeing("desk", "attic")
    before = standing(wanted, observed)
    observed.basis["big"] = "something else"
    assert standing(wanted, observed, 20.0) == before


def test_spares_give_way_to_a_model_that_has_no_place() -> None:
    second = WantedModel("second", 4096, 1, ModelShape("second", (GIB,) * 34, GIB, GIB, 4096, 32_000, 1024), file=FILE)
    big = WantedModel("big", 4096, 1, SHAPE, file=FILE)
    wanted, observed = ring(1, big, second), seeing("desk", "attic")
    settle(wanted, observed, 0.0)
    assert not observed.decided["second"].missing_bytes
    assert list(overfull(observed)) == []
    observed.nodes = {DESK: observed.nodes[DESK]}
    settle(wanted, observed, 20.0)
    assert all(not decision.spares for decision in observed.decided.values())


def test_a_spare_that_lost_its_room_before_it_was_started_goes_elsewhere() -> None:
    wanted, observed = ring(layers_at_home=False), seeing("desk", "attic", "cellar", "shed")
    settle(wanted, observed, 0.0)
    first = observed.decided["big"].spares[0]
    facts = observed.nodes[first.node]
    full = msgspec.structs.replace(facts.memory, available=GIB)
    observed.nodes = {**observed.nodes, first.node: msgspec.structs.replace(facts, memory=full)}
    settle(wanted, observed, 1.0)
    after = observed.decided["big"].spares
    assert first not in after
    assert first.process in {piece.process for piece in after}


def test_other_engines_and_settings_without_spares_have_none() -> None:
    for wanted in (ring(0), wanting(PoolConfig(engine="rpc", trusted_lan=True, standby=2))):
        observed = seeing("desk", "attic", "cellar")
        settle(wanted, observed, 0.0)
        assert not observed.decided["big"].spares


@given(
    rams=st.lists(st.floats(1, 40), min_size=1, max_size=6),
    standby=st.integers(0, 4),
    broken=st.lists(st.integers(0, 5), max_size=4),
)
def test_no_device_gets_more_than_it_has_and_no_spare_lies_beside_its_original(
    rams: list[float], standby: int, broken: list[int]
) -> None:
    wanted = ring(standby)
    names = ["desk", *(f"n{number}" for number in range(1, len(rams)))]
    nodes = [msgspec.structs.replace(machine(n, r), models=[FILE]) for n, r in zip(names, rams, strict=True)]
    observed = ObservedState(nodes={facts.node: facts for facts in nodes})
    standing(wanted, observed)
    for turn, victim in enumerate(broken, 1):
        if victim and victim < len(names):
            observed.nodes = without(observed, names[victim])
        decision = standing(wanted, observed, 20.0 * turn)
        serving = {piece.process: piece.node for piece in decision.slices}
        assert all(piece.node != serving[piece.process] for piece in decision.spares)
        assert len(places(decision.spares)) == len(decision.spares) <= standby * len(decision.slices)
        assert list(overfull(observed)) == []


# -- the parts ----------------------------------------------------------------------------------------


def piece(node: str, first: int, gib: int = 4) -> Slice:
    return Slice(
        node=NodeId(node), device="CPU", first=first, end=first + 10, weight_bytes=gib * GIB, process=f"stage.{first}"
    )


def decided(*slices: Slice, spares: tuple[Slice, ...] = ()) -> PlacementDecided:
    return PlacementDecided(
        model=ModelId("big"), coordinator=InstanceId("c"), slices=list(slices), spares=list(spares), home=DESK
    )


def test_the_first_spare_of_every_slice_comes_before_the_second_of_any() -> None:
    devices = [PlacementDevice(name, "CPU", 8 * GIB, 10e9) for name in ("c", "d", "e")]
    room = {device.key: 5 * GIB for device in devices}
    found = filled(decided(piece("a", 0), piece("b", 10)), 2, SHAPE, devices, room)
    assert [(one.node, one.process) for one in found.spares] == [("c", "stage.0"), ("d", "stage.10"), ("e", "stage.0")]
    assert wants_more(found, 2)
    assert found.spares[0].ms == pytest.approx(4 * GIB / 10e9 * 1000, rel=1e-3)
    away = filled(decided(piece("a", 0)), 1, SHAPE, devices, room, last_resort=NodeId("c"))
    assert away.spares[0].node == "d"


def test_what_is_no_spare_any_more_is_dropped() -> None:
    nodes = {NodeId(name): machine(name) for name in ("a", "b", "c")}
    spares = (piece("gone", 0), piece("a", 0), piece("b", 0), piece("c", 0), piece("c", 99))
    assert trimmed(decided(piece("a", 0), spares=spares), nodes, 1).spares == [piece("b", 0)]
    assert trimmed(decided(piece("a", 0), spares=spares), nodes, 0).spares == []


def test_spares_are_carried_on_only_where_nothing_new_is_to_be_loaded() -> None:
    before = decided(piece("a", 0), spares=(piece("b", 0),))
    assert carried(decided(piece("b", 0)), before).spares == [piece("a", 0)]
    assert carried(decided(piece("c", 0)), before).spares == []
    assert carried(decided(), before).spares == []
    assert carried(decided(piece("a", 0)), None).spares == []


def test_only_a_ready_spare_is_promoted() -> None:
    def holding(name: str, state: str) -> NodeFacts:
        process = ProcessFacts(process="stage.0", kind=ProcessKind.STAGE, state=state)
        return msgspec.structs.replace(machine(name), processes=[process])

    decision = decided(piece("a", 0), spares=(piece("b", 0), piece("c", 0)))
    nodes = {NodeId("b"): holding("b", "starting"), NodeId("c"): holding("c", "ready")}
    assert promoted(decision, nodes) == decided(piece("c", 0), spares=(piece("b", 0), piece("a", 0)))
    assert promoted(decision, {**nodes, NodeId("a"): holding("a", "ready")}) == decision
    assert promoted(decision, {}) == decision


def test_mapped_weights_do_not_count_as_room() -> None:
    nodes = {NodeId("a"): machine("a", 16)}
    device = PlacementDevice("a", "CPU", 16 * GIB, 10e9)
    given_by_settings = PlacementDevice("a", "GPU #0", 8 * GIB, 10e9)
    there = {"big": decided(piece("a", 0, 12), msgspec.structs.replace(piece("a", 10, 4), device="GPU #0"))}
    left = left_on([device, given_by_settings], nodes, there)
    assert left[device.key] == 4 * GIB
    assert left[given_by_settings.key] == given_by_settings.capacity - 4 * GIB
    assert total(piece("a", 0, 12)) == 12 * GIB
