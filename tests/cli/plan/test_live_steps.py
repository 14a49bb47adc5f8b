"""Plans learn from a model that runs: what its tokens take now counts, and only where it runs alone on a processor."""

import msgspec
import pytest

from tests.coordinator.machines import machine
from twd.bus.base import LeaseEntry
from twd.cli.plan.live_steps import with_live_steps
from twd.coordinator.core.machines.devices import processor
from twd.coordinator.core.placement.timing import seconds
from twd.coordinator.core.placement.values import DeviceShare, ModelShape
from twd.wire.base import InstanceId, ModelId
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.model import CostPoint
from twd.wire.node import GpuFacts, MeasuredStep, WeightShare
from twd.wire.service import ServiceLease

SHAPE = ModelShape("m", (10**8,) * 10, 10**8, 0, 1024, 32_000, 4096, reads=(("Q8_0", 1.0),), head_kind="Q8_0")
DESK = machine("desk", 64)
COSTS = {1: 200.0, 8: 300.0}
BEFORE = MeasuredStep(layers=1, weight_bytes=10**6, kinds=[WeightShare(kind="Q8_0", share=1.0)], ms=900.0)


def lease(costs: dict[int, float] = COSTS, engine: str = "") -> LeaseEntry:
    cost = [CostPoint(width=width, ms=ms) for width, ms in costs.items()]
    told = ServiceLease(
        service="speculator", instance=InstanceId("speculator.desk.x"), node=DESK.node, pid=1, version="1",
        started_ms=1, renewed_ms=1, facts=SpeculatorFacts(model=ModelId("m"), cost=cost, engine=engine),
    )  # fmt: skip
    return LeaseEntry(key=told.instance, value=msgspec.json.encode(told), revision=1, age_s=0.0)


def test_what_a_token_takes_now_is_foretold() -> None:
    known = msgspec.structs.replace(DESK, cpu=msgspec.structs.replace(DESK.cpu, measured=[BEFORE]))
    (seen,) = with_live_steps([known], [lease()], "m", SHAPE)
    device = processor(seen)
    assert seconds(DeviceShare(device, 0, 10, 10**9, head=True), SHAPE) == pytest.approx(0.2)
    assert device.window_factor == 1.5


def test_others_and_pools_and_cards_tell_nothing_of_the_processor() -> None:
    with_card = msgspec.structs.replace(DESK, gpus=[GpuFacts(name="g", backend="cuda")])
    assert with_live_steps([DESK], [lease()], "another", SHAPE) == [DESK]
    assert with_live_steps([DESK], [lease(engine="ring")], "m", SHAPE) == [DESK]
    assert with_live_steps([DESK], [lease({})], "m", SHAPE) == [DESK]
    assert with_live_steps([DESK], [lease()], "m", None) == [DESK]
    assert with_live_steps([with_card], [lease()], "m", SHAPE) == [with_card]
