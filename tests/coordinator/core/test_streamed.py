"""A mixture that is larger than all memory together has a place where stages read their experts from disk."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.coordinator.machines import GIB, machine, seeing, wanting
from tests.engine.experts.unlike import write_unlike
from twd.coordinator.core.model_placement import decide
from twd.coordinator.core.pass_time import MixtureShape
from twd.coordinator.core.placement.values import ModelShape, PlacementDemand, PlacementDevice
from twd.coordinator.core.processes import stage_of, wishes
from twd.coordinator.core.streamed import place_streamed, with_share
from twd.coordinator.model_shape import read_shape
from twd.gguf_tools.model_file import file_hash
from twd.moe.profile import ExpertProfile
from twd.moe.profile_files import kept_profile, write_profile
from twd.settings.model import ModelConfig, PoolConfig

MIXTURE = ModelShape(
    *("big", (GIB,) * 20, GIB // 4, GIB // 4, 4096, 32_000, 4096, 8192),
    mixture=MixtureShape((GIB * 9 // 10,) * 20, share=0.1),
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
    experts = shape.mixture.layer_bytes
    assert len(experts) == len(shape.layer_bytes) == 4
    assert all(0 < mine < whole for mine, whole in zip(experts, shape.layer_bytes, strict=True))
    assert shape.mixture.share == 0.25
    off = read_shape("m", ModelConfig(path=str(path), moe_stream="off"), "ring").mixture
    assert (off.layer_bytes, off.stream) == ((), "off")
    limited = read_shape("m", ModelConfig(path=str(path), moe_memory_gb=1.0), "ring").mixture
    assert limited.limit == GIB


def test_a_quick_disk_makes_a_quick_forecast_and_each_row_of_a_window_reads() -> None:
    slow, quick = (
        place_streamed(MIXTURE, [home := PlacementDevice("a", "CPU", 16 * GIB, 20e9, disk=disk)], {}, demand(home))
        for disk in (0.2e9, 2e9)
    )
    assert slow is not None
    assert quick is not None
    (piece,) = slow.pieces
    assert piece.disk_bytes == sum(MIXTURE.layer_bytes) - piece.weight_bytes > 0
    assert slow.plain_tok_s < quick.plain_tok_s / 2
    once, many = (MIXTURE.mixture.disk_s(0, 20, piece.disk_bytes, 0.2e9, rows) for rows in (1, 8))
    assert once == pytest.approx(0.1 * piece.disk_bytes / 0.2e9)
    assert 5 * once < many < 8 * once, "rows share some experts"


def test_a_kept_profile_tells_which_experts_are_busy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_unlike(tmp_path / "m.gguf")
    busy = {layer: {0: 90.0, 1: 10.0} for layer in range(4)}
    profile = ExpertProfile(model=file_hash(path), experts=8, tokens=50.0, hits=busy)
    write_profile(kept_profile(tmp_path, path), profile)
    held = read_shape("m", ModelConfig(path=str(path)), "ring", home=tmp_path).mixture.held
    assert held == tuple(sorted(held))
    assert (held[1], held[3], held[-1]) == (0.9, 1.0, 1.0), "an eighth of all are the busiest ones"
    assert read_shape("m", ModelConfig(path=str(path)), "ring").mixture.held == ()
    write_profile(tmp_path / "other.json", msgspec.structs.replace(profile, model="0" * 32))
    named = ModelConfig(path=str(path), moe_hot_profile=str(tmp_path / "other.json"))
    assert read_shape("m", named, "ring", home=tmp_path).mixture.held == (), "forecasts do without"
    assert "the profile of m.gguf is not used" in caplog.text


def test_busy_experts_stay_in_memory() -> None:
    mixture = replace(MIXTURE.mixture, held=(0.8, 1.0))
    experts = sum(mixture.layer_bytes)

    def missed(memory: float) -> float:
        return mixture.disk_s(0, 20, int(experts * (1 - memory)), 1.0) / mixture.share / experts

    for memory, left in ((0.0, 1.0), (0.25, 0.6), (0.5, 0.2), (0.75, 0.1), (1.0, 0.0)):
        assert missed(memory) == pytest.approx(left)
    assert MIXTURE.mixture.disk_s(0, 20, experts // 4, 1.0) == pytest.approx(experts / 4 * 0.1), "else all alike"


def test_settings_and_plan_reach_each_stage() -> None:
    wanted = wanting(PoolConfig(engine="ring"), MIXTURE)
    observed = seeing(machine("desk"), machine("shed"))
    (model,) = wanted.models
    planned = decide(wanted, observed, model)
    stages = [wish.stage for wish in wishes([model], "ring", {"big": planned}, observed.nodes)]
    assert [stage.moe_stream for stage in stages if stage] == ["on", "on"]
    on_disk = sum(piece.disk_bytes for piece in planned.slices)
    assert sum(stage.moe_memory for stage in stages if stage) == sum(MIXTURE.mixture.layer_bytes) - on_disk > 0
    limited = replace(model, shape=replace(MIXTURE, mixture=replace(MIXTURE.mixture, limit=GIB)))
    planned = decide(wanted, observed, limited)
    stages = [wish.stage for wish in wishes([limited], "ring", {"big": planned}, observed.nodes)]
    assert [stage.moe_memory for stage in stages if stage] == [GIB, GIB], "the limit of the settings holds"
    roomy = seeing(machine("desk", ram=64))
    forbidden = replace(model, shape=replace(MIXTURE, mixture=MixtureShape(stream="off")))
    (wish,) = wishes([forbidden], "ring", {"big": decide(wanted, roomy, forbidden)}, roomy.nodes)
    assert wish.stage is not None
    assert (wish.stage.moe_stream, wish.stage.moe_memory) == ("off", 0)
    assert stage_of(forbidden, 0, 20, True, "CPU") != stage_of(model, 0, 20, True, "CPU"), "another process"
