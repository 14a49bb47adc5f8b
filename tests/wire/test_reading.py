"""What stands in the registry may be anything: it is read, or it is left aside."""

import json
from collections.abc import Callable

import msgspec
import pytest

from twd.coordinator.lease import read_coordinator
from twd.wire.base import InstanceId, NodeId
from twd.wire.leases.others import EdgeFacts
from twd.wire.node import read_node
from twd.wire.placement import read_placement
from twd.wire.reading import read_as
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
    assert read_lease(value, "edge.n.i") == msgspec.structs.replace(lease, facts=EdgeFacts())
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


def test_text_that_no_bytes_stand_for_is_left_aside() -> None:
    assert read_as(str, '"\ud800"') is None
    assert read_as(str, '"a"') == "a"
