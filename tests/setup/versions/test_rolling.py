"""The order of a rolling upgrade, and which versions may meet on one bus."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.setup.versions.rolling import RollingMachine, base_of_version, neighbours, obstacle_between, rolling_order

SERVICES = ("agent", "stage", "drafter", "swarm", "speculator", "relay", "coordinator", "metrics", "edge", "broker")
machines = st.lists(
    st.builds(RollingMachine, node=st.text("abc", min_size=1), services=st.frozensets(st.sampled_from(SERVICES))),
    unique_by=lambda machine: machine.node,
)


def machine(node: str, *services: str) -> RollingMachine:
    return RollingMachine(node, frozenset(services))


def test_those_that_lend_go_first_and_coordinator_and_edge_last() -> None:
    given_in = [
        machine("a-door", "edge", "metrics"),
        machine("b-desk", "edge", "coordinator", "membership"),
        machine("c-plan", "coordinator", "agent"),
        machine("d-big", "speculator", "agent"),
        machine("e-old", "agent", "drafter"),
        machine("f-off"),
    ]
    assert [one.node for one in rolling_order(given_in)] == ["e-old", "f-off", "d-big", "c-plan", "a-door", "b-desk"]


@given(machines, st.randoms())
def test_the_order_depends_on_the_machines_alone(found: list[RollingMachine], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ordered = rolling_order(shuffled)
    assert ordered == rolling_order(found)
    assert sorted(ordered, key=str) == sorted(found, key=str), "each exactly once"


@given(machines)
def test_no_edge_goes_before_one_that_has_none(found: list[RollingMachine]) -> None:
    last = [bool(one.services & {"edge", "broker"}) for one in rolling_order(found)]
    assert last == sorted(last)


@pytest.mark.parametrize(
    ("one", "other", "works"),
    [
        ("0.1.0", "0.1.9", True),
        ("0.1.0", "0.2.0", True),
        ("0.2.0-abc", "0.1.4", True),
        ("0.1.0", "0.3.0", False),
        ("0.9.1", "1.0.0", True),
        ("0.9.1", "1.1.0", False),
        ("1.2.0rc1", "1.3.0", True),
        ("1.0", "3.0", False),
        ("2", "2.1.dev4+g12", True),
    ],
)
def test_neighbours_work_together(one: str, other: str, works: bool) -> None:
    assert neighbours(one, other) is neighbours(other, one) is works


def test_why_a_machine_cannot_go_to_a_version() -> None:
    assert obstacle_between("0.1.0-0123456789ab", "0.2.0-ba9876543210") == ""
    assert obstacle_between("0.2.0-0123456789ab", "0.2.0-ba9876543210") == "", "another build of the same version"
    assert "newer than 0.2.0" in obstacle_between("0.3.0", "0.2.0")
    assert "between them first" in obstacle_between("0.1.0", "0.3.0")
    assert base_of_version("1.0rc1-0123456789ab") == "1.0rc1"
