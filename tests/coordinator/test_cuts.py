"""Models that a ring may not cut everywhere: no plan has a slice that no machine would make."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.coordinator.machines import machine, seeing, wanting
from tests.engine.sliceable_models import write_sliceable
from tests.engine.slices.recipes import recipe
from twd.coordinator.core.layers import as_they_fit, quotas, refused
from twd.coordinator.core.model_placement import decide
from twd.coordinator.core.placement.search import place
from twd.coordinator.core.placement.values import ModelShape, Placement, PlacementDemand, PlacementDevice
from twd.coordinator.wanted import wanted_model
from twd.gguf_tools.slice_rules import CutPoints
from twd.settings.model import ModelConfig, PoolConfig, Settings

GIB = 1024**3
FOURS = CutPoints("smollm3", 36, multiple=4)
R1 = CutPoints("deepseek2", 61, odd_counts=(26, 27, 47, 48))


def shape(cuts: CutPoints, layer: int = GIB) -> ModelShape:
    return ModelShape("m", (layer,) * cuts.layers, GIB // 4, GIB // 4, 4096, 32_000, 1, 8192, cuts)


def cpu(node: str, free: int, speed: float = 20e9) -> PlacementDevice:
    return PlacementDevice(node, "CPU", free, speed)


def layers(placed: Placement) -> list[tuple[int, int]]:
    return [(piece.first, piece.end) for piece in placed.pieces if piece.end > piece.first]


def test_slices_begin_where_they_may() -> None:
    devices = [cpu(node, 16 * GIB) for node in ("a", "b", "c", "d")]
    placed = place(shape(FOURS), devices, {}, PlacementDemand(1, 1, devices[0]))
    assert placed.fits
    assert all(first % 4 == 0 for first, _ in layers(placed))
    evenly = place(shape(FOURS), devices, {}, PlacementDemand(1, 1, devices[0], split=(1.0,) * 4))
    assert sorted(layers(evenly)) == [(0, 12), (12, 20), (20, 28), (28, 36)]


def test_a_device_leaves_room_where_the_rest_could_not_be_cut() -> None:
    """14 layers on the first would leave 47 to the second, which are not to be had; 46 would leave one over."""
    assert as_they_fit([1] * 61, [14, 49], R1) == [12, 49]
    assert as_they_fit([1] * 61, [14, 47], R1) == [14, 46], "no way for all"
    assert as_they_fit([1] * 61, [14, 47, 1], R1) == [14, 46, 1]
    assert as_they_fit([1] * 61, [14, 40], R1) == [14, 40]


def test_a_layer_of_zeros_counts_and_the_whole_model_is_no_cut() -> None:
    cuts = CutPoints("gemma3", 61, odd_counts=(62,), tails=True)
    assert not cuts.why_not(0, 61)
    assert "62 layers in another way" in replace(cuts, layers=80).why_not(0, 61)
    assert not replace(cuts, layers=80, tails=False).why_not(0, 61)


def test_a_split_that_cannot_be_cut_is_refused_with_the_reason() -> None:
    model = replace(wanting().models[0], shape=shape(R1, GIB // 8))
    wanted = replace(wanting(PoolConfig(split=(27.0, 34.0))), models=(model,))
    observed = seeing(machine("desk", 64), machine("attic", 64))
    (note,) = decide(wanted, observed, model).notes
    assert note.startswith("pool.split cannot be kept: llama.cpp computes deepseek2 models of 27 layers in another way")
    even = replace(wanted, pool=PoolConfig(split=(30.0, 31.0)))
    assert not decide(even, observed, model).missing_bytes


def test_other_engines_cut_where_they_like(tmp_path: Path) -> None:
    settings = settings_for(write_sliceable("smollm3", tmp_path), "rpc")
    assert wanted_model(settings, "tiny").shape is not None
    model = wanted_model(settings_for(recipe("minicpm3").write(tmp_path / "tiny.gguf"), "rpc"), "tiny")
    assert model.shape is not None
    assert not model.problem


def test_a_model_that_no_ring_can_cut_is_refused_with_a_way_out(tmp_path: Path) -> None:
    model = wanted_model(settings_for(recipe("minicpm3").write(tmp_path / "tiny.gguf"), "ring"), "tiny")
    assert model.shape is None
    assert "minicpm3: llama.cpp scales each layer by the count of layers" in model.problem
    assert "`pool.engine: rpc` pools it" in model.problem
    decision = decide(replace(wanting(PoolConfig()), models=(model,)), seeing(machine("desk", 64)), model)
    assert decision.notes == [model.problem]


def test_a_tiny_model_goes_evenly_over_machines_only_as_it_can_be_cut(tmp_path: Path) -> None:
    settings = settings_for(write_sliceable("smollm3", tmp_path), "ring")
    model = replace(wanted_model(settings, "tiny"), file=None)
    wanted = replace(wanting(settings.pool), models=(model,))
    decision = decide(wanted, seeing(*(machine(name) for name in ("desk", "attic", "cellar"))), model)
    assert [(piece.first, piece.end) for piece in decision.slices] == [(0, 4), (4, 8)]


def settings_for(path: Path, engine: str) -> Settings:
    pool = PoolConfig(engine=engine, split="even")  # type: ignore[arg-type]
    return Settings(mode="combined", pool=pool, models={"tiny": ModelConfig(path=str(path), ctx_size=128)})


# -- whatever the model and the machines ----------------------------------------------------------------


def cuts_of_any_kind(count: int) -> st.SearchStrategy[CutPoints]:
    odd = st.lists(st.integers(1, count), max_size=4, unique=True).map(lambda found: tuple(sorted(found)))
    return st.builds(CutPoints, st.just("odd"), st.just(count), st.integers(1, 6), odd, st.booleans())


cuts_of_any = st.integers(1, 40).flatmap(cuts_of_any_kind)
roomy = st.lists(st.integers(0, 20 * GIB), min_size=1, max_size=6)


@given(cuts_of_any, roomy, st.integers(0, 4 * GIB), st.integers(0, 4 * GIB), st.booleans())
def test_never_a_forbidden_cut_and_never_over_memory(
    cuts: CutPoints, rooms: list[int], embedding: int, head: int, even: bool
) -> None:
    devices = [cpu(f"n{number}", room, 1e9 * (1 + number % 3)) for number, room in enumerate(rooms)]
    model = replace(shape(cuts), embedding_bytes=embedding, head_bytes=head)
    wish = PlacementDemand(1, 1, devices[0], split=(1.0,) * len(rooms) if even else ())
    placed = place(model, devices, {}, wish)
    for first, end in layers(placed):
        assert not cuts.why_not(first, end)
    for device in devices:
        held = sum(piece.total for piece in placed.pieces if piece.device.key == device.key)
        assert held <= device.capacity
    if placed.fits:
        assert [first for first, _ in layers(placed)][1:] == [end for _, end in layers(placed)][:-1]
        assert sum(end - first for first, end in layers(placed)) == cuts.layers


@given(cuts_of_any, st.lists(st.integers(0, 45), min_size=1, max_size=5))
def test_all_layers_go_somewhere_where_that_can_be(cuts: CutPoints, rooms: list[int]) -> None:
    """Against trying out every way."""

    def ways(first: int, left: tuple[int, ...]) -> bool:
        if first == cuts.layers:
            return True
        if not left or first % cuts.multiple:
            return False
        ends = range(first, min(cuts.layers, first + left[0]) + 1)
        return any((end == first or not cuts.why_not(first, end)) and ways(end, left[1:]) for end in ends)

    counts = as_they_fit([1] * cuts.layers, rooms, cuts)
    assert (sum(counts) == cuts.layers) == ways(0, tuple(rooms))
    assert all(count <= room for count, room in zip(counts, rooms, strict=True))
    assert not refused(counts, cuts)


@given(st.lists(st.floats(0, 9), min_size=1, max_size=8).filter(any), st.integers(1, 90), st.integers(1, 6))
def test_shares_are_whole_multiples_and_cover_all_layers(split: list[float], count: int, multiple: int) -> None:
    found = quotas(split, count, multiple)
    ends = [0, *(sum(found[: index + 1]) for index in range(len(found)))]
    assert ends[-1] == count
    assert all(first <= end and (end % multiple == 0 or end == count) for first, end in pairwise(ends))


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_device_too_small_for_any_layer_is_passed_over(room: int) -> None:
    assert as_they_fit([4] * 8, [room, 40], CutPoints("smollm3", 8, multiple=4)) == [0, 8]
