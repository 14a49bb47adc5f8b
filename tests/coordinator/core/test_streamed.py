"""A mixture that is larger than all memory together has a place where stages read their experts from disk."""

from pathlib import Path

import pytest

from tests.coordinator.machines import GIB
from tests.engine.experts.unlike import write_unlike
from twd.coordinator.core.placement import ModelShape, PlacementDemand, PlacementDevice
from twd.coordinator.core.streamed import place_streamed, with_share
from twd.coordinator.model_shape import read_shape
from twd.settings.model import ModelConfig

MIXTURE = ModelShape(
    "big", (GIB,) * 20, GIB // 4, GIB // 4, 4096, 32_000, 4096, 8192, expert_layer_bytes=(GIB * 9 // 10,) * 20
)


def demand(home: PlacementDevice, engine: str = "ring") -> PlacementDemand:
    return PlacementDemand(1024, 1, home, engine)


def test_memory_holds_the_largest_share_that_fits() -> None:
    machines = [PlacementDevice(name, "CPU", 8 * GIB, 20e9) for name in ("a", "b")]
    placed = place_streamed(MIXTURE, machines, {}, demand(machines[0]))
    assert placed is not None
    assert placed.fits
    assert {piece.device.node for piece in placed.pieces} == {"a", "b"}
    assert placed.notes[0].startswith("memory holds about 70% of its experts")
    assert sum(piece.weight_bytes for piece in placed.pieces) == sum(with_share(MIXTURE, 0.7).layer_bytes)


@pytest.mark.parametrize(
    ("shape", "engine", "free"),
    [(MIXTURE, "rpc", 8), (ModelShape("big", (GIB,) * 20, 0, 0, 4096, 32_000, 4096), "ring", 8), (MIXTURE, "ring", 1)],
    ids=["not over rpc", "not a dense model", "not below the dense weights"],
)
def test_others_have_no_such_place(shape: ModelShape, engine: str, free: int) -> None:
    machines = [PlacementDevice(name, "CPU", free * GIB, 20e9) for name in ("a", "b")]
    assert place_streamed(shape, machines, {}, demand(machines[0], engine)) is None


def test_the_shape_tells_which_bytes_are_experts(tmp_path: Path) -> None:
    path = write_unlike(tmp_path / "m.gguf")
    shape = read_shape("m", ModelConfig(path=str(path)), "ring")
    assert len(shape.expert_layer_bytes) == len(shape.layer_bytes) == 4
    assert all(0 < experts < whole for experts, whole in zip(shape.expert_layer_bytes, shape.layer_bytes, strict=True))
    assert not read_shape("m", ModelConfig(path=str(path), moe_stream="off"), "ring").expert_layer_bytes
