"""Machines that join: for how long others are waited for, and not a moment longer."""

import msgspec

from tests.coordinator.machines import machine
from twd.coordinator.core.observation import BACK_S, JOIN_S, LOOKING_S, SETTLE_S, JoinTimes
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import NodeFacts


def looking(name: str) -> NodeFacts:
    return msgspec.structs.replace(machine(name), looking=True)


def test_those_that_join_together_are_planned_with_together() -> None:
    joined, desk, attic = JoinTimes(), machine("desk"), machine("attic")
    assert joined.settled([desk], {}, 1.0) == {}
    assert joined.until == 1.0 + SETTLE_S
    assert joined.settled([desk, attic], {}, 1.5) == {}
    assert joined.until == 1.5 + SETTLE_S
    both = joined.settled([desk, attic], {}, 1.5 + SETTLE_S)
    assert set(both) == {"desk", "attic"}
    assert joined.until is None, "nobody is waited for any more"


def test_one_that_has_looked_round_is_planned_with_as_soon_as_it_has_settled() -> None:
    joined, desk = JoinTimes(), machine("desk")
    known = {desk.node: desk}
    assert set(joined.settled([desk, looking("attic")], known, 10.0)) == {"desk"}
    assert joined.until == 10.0 + LOOKING_S
    assert set(joined.settled([desk, machine("attic")], known, 10.0 + JOIN_S)) == {"desk", "attic"}
    assert joined.until is None


def test_one_that_joins_others_is_waited_for_less_than_the_first_ones() -> None:
    joined, desk = JoinTimes(), machine("desk")
    joined.settled([desk, machine("attic")], {desk.node: desk}, 5.0)
    assert joined.until == 5.0 + JOIN_S < 5.0 + SETTLE_S


def test_one_that_looks_for_too_long_keeps_nobody_waiting() -> None:
    joined = JoinTimes()
    joined.settled([machine("desk"), looking("attic")], {}, 0.0)
    assert set(joined.settled([machine("desk"), looking("attic")], {}, LOOKING_S)) == {"desk"}


def test_a_machine_whose_agent_came_back_is_as_it_was_until_it_has_looked() -> None:
    before = machine("desk", 64)
    again = msgspec.structs.replace(looking("desk"), instance=InstanceId("agent.desk.new"))
    settled = JoinTimes().settled([again], {before.node: before}, 0.0)
    assert settled[NodeId("desk")].memory.total == before.memory.total
    assert settled[NodeId("desk")].instance == "agent.desk.new"


def test_known_machines_are_planned_with_until_they_had_time_to_come_back_to_a_restarted_broker() -> None:
    joined, desk, attic = JoinTimes(back_at=100.0), machine("desk"), machine("attic")
    known = {desk.node: desk, attic.node: attic}
    assert set(joined.settled([], known, 100.0)) == {"desk", "attic"}
    bigger = machine("desk", 64)
    assert joined.settled([bigger], known, 100.0 + BACK_S / 2) == {"desk": bigger, "attic": attic}
    assert set(joined.settled([desk], known, 100.0 + BACK_S)) == {"desk"}
