"""What a running model was measured to do stands beside its estimate; where nobody serves it, nothing is told."""

import msgspec
import pytest

from twd.bus.base import LeaseEntry
from twd.cli.common.measured_speed import beside_measured, measured_tok_s
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.leases.base import LeaseFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.model import CostPoint
from twd.wire.placement import PlacementDecided
from twd.wire.service import ServiceLease

M = ModelId("m")
FIVE = CostPoint(width=1, ms=5.0)


def lease(facts: LeaseFacts, service: str = "speculator") -> LeaseEntry:
    told = ServiceLease(
        instance=InstanceId(f"{service}.desk.x"), service=service, node=NodeId("desk"), pid=1, version="1",
        facts=facts, started_ms=1, renewed_ms=1,
    )  # fmt: skip
    return LeaseEntry(key=told.instance, value=msgspec.json.encode(told), revision=1, age_s=0.0)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (lease(SpeculatorFacts(model=M, cost=[FIVE, CostPoint(width=8, ms=9.0)])), 200.0),
        (lease(SpeculatorFacts(model=M, cost=[FIVE], trip_ms=20.0)), 50.0),
        (lease(SpeculatorFacts(model=M)), 0.0),
        (lease(DrafterLeaseFacts(model=M, token_ms=5.0), "drafter"), 0.0),
    ],
)
def test_the_time_of_one_token_counts_the_whole_way_where_there_is_one(entry: LeaseEntry, expected: float) -> None:
    assert measured_tok_s([entry], "m") == expected
    assert measured_tok_s([entry], "other") == 0.0


def test_both_are_told_where_both_are_known() -> None:
    decision = PlacementDecided(model=ModelId("m"), coordinator=InstanceId("c"), plain_tok_s=100.0)
    assert list(beside_measured(decision, 80.0)) == ["measured while it serves: 80 tokens/s plain, 0.8 of the estimate"]
    assert list(beside_measured(decision, 0.0)) == []
