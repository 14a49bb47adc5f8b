"""What stands in the registry may be anything: it is read, or it is left aside."""

import json
from collections.abc import Callable

import msgspec
import pytest

from twd.coordinator.lease import read_coordinator
from twd.wire.base import InstanceId, NodeId
from twd.wire.model import CostPoint, read_costs, single_step_ms, told_costs
from twd.wire.node import read_node
from twd.wire.placement import read_placement, read_ways
from twd.wire.reading import read_as
from twd.wire.ring import read_stage
from twd.wire.service import ServiceLease, read_lease

NONSENSE = {
    "no JSON": b"{",
    "another shape": b'{"service": 5}',
    "no UTF-8": b'{"note": "\xff", "service": "\xff", "type": "\xff", "node": "\xff", "instance": "\xff"}',
    "a name that is no UTF-8": b'{"\xff": 1}',
    "deeper than we read": b'{"of a later version": ' + b"[" * 100_000,
    "a number without end": b'{"pid": 1' + b"0" * 5000 + b"}",
}


@pytest.mark.parametrize("read", [read_lease, read_node, read_placement])
@pytest.mark.parametrize("value", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_in_the_registry_is_left_aside(read: Callable[[bytes, str], object], value: bytes) -> None:
    assert read(value, "edge.n.i") is None
    assert read_coordinator(value) is None


def test_what_stands_under_another_name_is_left_aside() -> None:
    lease = ServiceLease(
        service="edge",
        instance=InstanceId("edge.n.i"),
        node=NodeId("n"),
        pid=1,
        version="1",
        started_ms=1,
        renewed_ms=1,
    )
    value = msgspec.json.encode(lease)
    assert read_lease(value, "edge.n.i") == lease
    for key in ("edge.n.j", "drafter.n.i", "edge.m.i"):
        assert read_lease(value, key) is None
    forger = msgspec.structs.replace(lease, service="drafter")
    for forged in (forger, msgspec.structs.replace(lease, node=NodeId("m"))):
        assert read_lease(msgspec.json.encode(forged), "edge.n.i") is None


@pytest.mark.parametrize("field", ["pid", "started_ms"])
@pytest.mark.parametrize("number", [2**63, 10**400])
def test_a_number_that_nobody_can_compute_with_is_left_aside(field: str, number: int) -> None:
    name = "edge.n.i"
    usual = {
        "service": "edge",
        "instance": name,
        "node": "n",
        "pid": 1,
        "version": "1",
        "started_ms": 1,
        "renewed_ms": 1,
    }
    assert read_lease(json.dumps(usual).encode(), name) is not None
    assert read_lease(json.dumps(usual | {field: number}).encode(), name) is None
    assert read_lease(json.dumps(usual | {"facts": {"sessions": number}}).encode(), name) is None


def test_nonsense_within_a_lease_is_left_aside() -> None:
    deep = NONSENSE["deeper than we read"].decode()
    assert read_stage({"ready": deep}) is None
    assert read_ways({"ways": deep}) == []


def test_the_costs_in_a_lease_are_read_as_they_were_told() -> None:
    points = [CostPoint(width=1, ms=12.5), CostPoint(width=8, ms=30.0)]
    facts = {"cost_ms": told_costs(points)}
    assert read_costs(facts) == points
    assert single_step_ms(facts) == 12.5
    for nonsense in ([], "1:5", ["1"], ["1:x"], ["1:²"], ["1:nan"], ["1:1e400"], ["-1:5"], ["1:2:3"], None):
        assert read_costs({"cost_ms": nonsense}) == []
        assert single_step_ms({"cost_ms": nonsense}) == 0.0


def test_text_that_no_bytes_stand_for_is_left_aside() -> None:
    assert read_as(str, '"\ud800"') is None
    assert read_as(str, '"a"') == "a"
