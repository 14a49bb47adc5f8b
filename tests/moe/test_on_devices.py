"""A placement as our engine takes it."""

import re
from pathlib import Path

from tests.moe.mixtures import write_random
from tests.moe.test_placement import LAYERS, card, host, mixture
from twd.engine.library import EngineDevice
from twd.engine.tensor_places import DevicePlacement, TensorOverride, bytes_on_host
from twd.gguf_tools.inspect import inspect
from twd.moe.on_devices import placement_of
from twd.moe.placement import DeviceScore, place


def device(name: str) -> EngineDevice:
    return EngineDevice(name, "a card", "gpu", 0, 0, 0)


def placed(*devices: DeviceScore) -> DevicePlacement:
    cards = {one.name: device(one.name) for one in devices if not one.host}
    return placement_of(place(mixture(), devices), cards)


def layers_of(place: TensorOverride) -> set[int]:
    names = {f"blk.{layer}.ffn_{part}_exps.weight": layer for layer in range(99) for part in ("up", "down", "gate_up")}
    dense = [f"blk.{layer}.{name}.weight" for layer in range(99) for name in ("ffn_gate_inp", "attn_q", "ffn_up_shexp")]
    pattern = re.compile(place.pattern.decode())
    assert not [name for name in dense if pattern.search(name)], "only experts move"
    return {layer for name, layer in names.items() if pattern.search(name)}


def test_experts_without_room_on_the_card_stay_in_memory() -> None:
    found = placed(card(300), host())
    assert (found.layers, found.split) == (LAYERS + 1, ())
    (moved,) = found.places
    assert moved.device is None
    assert len(layers_of(moved)) == LAYERS - 2


def test_where_all_fits_nothing_moves() -> None:
    assert placed(card(4096), host()).places == ()
    alone = placed(host())
    assert (alone.layers, alone.devices, alone.places) == (0, (), ())


def test_two_cards_share_layers_and_experts_go_to_where_there_is_room() -> None:
    found = placed(card(60, "CUDA0", 600e9), card(1000, "CUDA1", 500e9), host(100))
    assert len(found.split) == 2
    assert sum(found.split) == found.layers
    places = {place.device.name if place.device else "": layers_of(place) for place in found.places}
    assert set(places) <= {"CUDA0", "CUDA1", ""}
    assert "CUDA1" in places or found.split[1] > found.split[0]


def test_other_places_are_another_placement() -> None:
    told = {placed(card(memory), host()).told for memory in (200, 300, 400)}
    assert len(told) == 3


def test_bytes_on_the_host_count_what_the_first_matching_pattern_leaves_there(tmp_path: Path) -> None:
    info = inspect(write_random(tmp_path / "m.gguf"))
    sizes = {tensor.name: tensor.size_bytes for tensor in info.tensors}
    experts = {name: size for name, size in sizes.items() if "_exps" in name}
    everything, second = TensorOverride(rb"_exps\."), TensorOverride(rb"^blk\.1\..+_exps\.", device("CUDA0"))
    assert bytes_on_host(info, (everything,), 0) == sum(experts.values())
    of_first = sum(size for name, size in experts.items() if name.startswith("blk.1."))
    assert bytes_on_host(info, (second, everything), 0) == sum(experts.values()) - of_first > 0
    assert bytes_on_host(info, (everything,), 1) < sum(experts.values()), "layer 0 is counted elsewhere"
    assert bytes_on_host(info, (), 0) == 0
