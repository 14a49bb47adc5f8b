"""Where the experts and routers of a loaded model lie in memory. Pure."""

from collections.abc import Sequence

from twd.engine.experts.layout import ExpertLayout, Spot
from twd.engine.experts.native import PlacedMatrix, PlacedRouter
from twd.engine.experts.overlay import Fragment


def placed_matrices(layout: ExpertLayout, fragments: Sequence[Fragment]) -> list[PlacedMatrix]:
    """The matrices that llama.cpp has mapped. It leaves out layers that it does not use, as those of a head."""
    places, found = _places(layout, fragments), []
    for one in layout.matrices:
        where = _address(fragments, (one.shard, one.offset))
        if where and one.layer in places:
            found.append(PlacedMatrix(where, one.offset, one.each, one.shard, places[one.layer], one.experts))
    return found


def placed_routers(layout: ExpertLayout, fragments: Sequence[Fragment]) -> list[PlacedRouter]:
    """Those that llama.cpp has mapped; without its router, a layer's choice is not foreseen."""
    places, found = _places(layout, fragments), []
    for one in layout.routers:
        weights, norm, bias, choice = (_address(fragments, s) for s in (one.weights, one.norm, one.bias, one.choice))
        if weights and one.layer in places:
            found.append(PlacedRouter(weights, norm, bias, choice, places[one.layer], one.experts, one.width))
    return found


def _places(layout: ExpertLayout, fragments: Sequence[Fragment]) -> dict[int, int]:
    """The layers that are mapped whole, counted without gaps."""
    away = {one.layer for one in layout.matrices if not _address(fragments, (one.shard, one.offset))}
    return {layer: number for number, layer in enumerate(layer for layer in layout.layers if layer not in away)}


def _address(fragments: Sequence[Fragment], spot: Spot | None) -> int:
    """Where a byte of a file lies in memory; 0: nowhere."""
    if spot is None:
        return 0
    held = (part for part in fragments if part.shard == spot[0] and part.holds(spot[1]))
    return next((part.address(spot[1]) for part in held), 0)
