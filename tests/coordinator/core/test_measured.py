"""What was measured takes the place of what was estimated, and moves nothing by itself."""

from dataclasses import replace

import msgspec
import pytest

from tests.coordinator.machines import DESK, GIB, SHAPE, machine, seeing, wanting
from twd.coordinator.core.measured import DevicePace, paces_of, reads_of, retimed, with_paces
from twd.coordinator.core.placement.values import Key, MachineLink, PlacementDevice
from twd.coordinator.core.plan import moved, plan
from twd.coordinator.core.state import DecidePlacement
from twd.coordinator.links import LinkTable
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.codec import encode
from twd.wire.model import CostPoint
from twd.wire.placement import PlacementDecided, Slice, Way, placement_key, read_placement
from twd.wire.ring import StageReady

ATTIC = NodeId("attic")


def stage(node: NodeId, first: int, end: int, layer_ms: float) -> StageReady:
    cost = [CostPoint(width=1, ms=10.0), CostPoint(width=8, ms=15.0)]
    return StageReady(
        stage=InstanceId(f"stage.{node}"), node=node, model=ModelId("big"), file_hash="h", first=first, end=end,
        layers=20, head=end == 20, host="h", port=1, layer_ms=layer_ms, cost=cost,
    )  # fmt: skip


def decided() -> PlacementDecided:
    slices = [
        Slice(node=DESK, device="CPU", first=0, end=10, weight_bytes=10 * GIB, ms=500.0),
        Slice(node=ATTIC, device="CUDA0", first=10, end=20, weight_bytes=10 * GIB, ms=25.0, head=True),
    ]
    return PlacementDecided(
        model=ModelId("big"), coordinator=InstanceId("c"), slices=slices, plain_tok_s=1000 / 625, speculative_tok_s=3.0
    )


def test_stages_tell_how_fast_their_devices_are() -> None:
    paces = paces_of([stage(DESK, 0, 10, 100.0), stage(ATTIC, 0, 10, 1.0)], [decided()])
    assert paces == {(DESK, "CPU"): DevicePace(10 * GIB / 1.0, 1.5, "big")}, (
        "the other one holds no slice of the decision"
    )


def test_devices_that_nobody_measured_count_as_those_of_their_kind() -> None:
    devices = [
        PlacementDevice("a", "CPU", 1, 20e9),
        PlacementDevice("b", "CPU", 1, 10e9),
        PlacementDevice("b", "CUDA0", 1, 400e9),
    ]
    measured = with_paces(devices, {("a", "CPU"): DevicePace(5e9, 2.0)})
    assert [device.speed for device in measured] == [5e9, 2.5e9, 400e9]
    assert measured[0].window_factor == 2.0
    assert with_paces(devices, {}) == tuple(devices)
    of_mixture = with_paces(devices, {("a", "CPU"): DevicePace(5e9, model="mixture")}, {"mixture": 0.3, "dense": 1.0})
    assert of_mixture[0].speed == pytest.approx(1.5e9), "so much it really read"


def test_a_stage_that_reads_experts_was_timed_with_those_in_memory() -> None:
    (piece, *_) = (decision := decided()).slices
    streamed = msgspec.structs.replace(piece, weight_bytes=piece.weight_bytes - GIB, disk_bytes=GIB)
    decision = msgspec.structs.replace(decision, slices=[streamed])
    assert paces_of([stage(DESK, 0, 10, 100.0)], [decision]) == paces_of([stage(DESK, 0, 10, 100.0)], [decided()])


def test_a_mixture_reads_a_share_of_its_weights() -> None:
    mixture = replace(SHAPE, reads=(("Q8_0", 0.2), ("F32", 0.1)))
    assert reads_of([("mixture", mixture), ("dense", SHAPE), ("unknown", None)]) == {"mixture": pytest.approx(0.3)}


def test_a_forecast_is_corrected_once_and_nothing_moves() -> None:
    before = decided()
    paces: dict[Key, DevicePace] = {
        (DESK, "CPU"): DevicePace(10 * GIB / 1.0),
        (ATTIC, "CUDA0"): DevicePace((10 * GIB + SHAPE.head_bytes) / 0.025),
    }
    after = retimed(before, SHAPE, paces)
    assert [piece.ms for piece in after.slices] == [1000.0, 25.0]
    assert after.plain_tok_s == pytest.approx(1000 / 1125, abs=0.01), "the way takes its 100 ms as before"
    assert not moved(before, after)
    assert retimed(after, SHAPE, paces) is after
    assert retimed(before, SHAPE, {}) is before


def test_a_forecast_that_was_far_too_slow_becomes_no_nonsense() -> None:
    (piece, *_) = decided().slices
    slow = msgspec.structs.replace(decided(), slices=[msgspec.structs.replace(piece, ms=22_000.0)], plain_tok_s=0.05)
    after = retimed(slow, SHAPE, {(piece.node, piece.device): DevicePace(piece.weight_bytes / 0.5)})
    assert after.plain_tok_s == pytest.approx(2.0, rel=0.1), "its rate was rounded"
    assert read_placement(encode(after), placement_key(after.place)) == after


def test_the_coordinator_tells_the_better_forecast() -> None:
    wanted, observed = wanting(), seeing(machine("desk", 64))
    first = plan(wanted, observed, 0.0)
    assert isinstance(first, DecidePlacement)
    observed.decided["big"], observed.basis["big"] = first.decision, first.basis
    assert plan(wanted, observed, 0.0) is None
    observed.paces = {(DESK, "CPU"): DevicePace(5e9)}
    second = plan(wanted, observed, 0.0)
    assert isinstance(second, DecidePlacement)
    assert second.decision.plain_tok_s == pytest.approx(first.decision.plain_tok_s / 4, rel=0.01)
    observed.decided["big"] = second.decision
    assert plan(wanted, observed, 0.0) is None


def test_what_a_speculator_measured_on_its_way_counts() -> None:
    links = LinkTable(known={"attic": MachineLink(0.002)})
    links.learn([Way(node=ATTIC, rtt_ms=9.0, bandwidth=12_000_000), Way(node=DESK, rtt_ms=1.0)])
    assert links.known == {"attic": MachineLink(0.002, 12e6, True)}
    wanted, observed = wanting(), seeing(machine("desk", 2), machine("attic", 64))
    observed.links = links.known
    action = plan(wanted, observed, 0.0)
    assert isinstance(action, DecidePlacement)
    assert action.decision.bandwidths == {"attic": 12_000_000}
    assert action.decision.links == {"attic": 2.0}
