"""A placement as our engine takes it: layers by device, and name patterns of experts that lie elsewhere."""

from collections.abc import Sequence

from twd.engine.library import EngineDevice, buffer_name
from twd.engine.tensor_places import DevicePlacement, TensorOverride
from twd.moe.placement import MixturePlan


def device_placement(plan: MixturePlan, cards: Sequence[EngineDevice]) -> DevicePlacement:
    """`cards` stand in llama.cpp's order; dense layers are the last ones of the model, as llama.cpp splits it."""
    return placement_of(plan, {buffer_name(card): card for card in cards})


def placement_of(plan: MixturePlan, cards: dict[str, EngineDevice]) -> DevicePlacement:
    """The same by the names of the plan's devices."""
    dense = {layer: share.device.name for share in plan.shares for layer in share.dense_layers}
    counts = [sum(1 for place in dense.values() if place == name) + (plan.outside == name) for name in cards]
    places = []
    for share in plan.shares:
        away = [str(layer) for layer in share.expert_layers if dense[layer] != share.device.name]
        if away:
            pattern = rf"^blk\.({'|'.join(away)})\.ffn_.+_exps\."
            places.append(TensorOverride(pattern.encode(), cards.get(share.device.name)))
    split = tuple(float(count) for count in counts) if len(cards) > 1 else ()
    return DevicePlacement(sum(counts), tuple(cards.values()), split, tuple(places))
