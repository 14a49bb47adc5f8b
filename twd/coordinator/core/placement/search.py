"""Which layers of a model go on which devices. Plain values in, a placement with its reasons out.

A pass reads every weight once, so a device's time is bytes divided by speed; each further machine adds its link. Layers
fill the devices of an order one after the other. Several orders are tried, devices without benefit are dropped, and the
fastest placement is taken. No device gets more than its free memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Final

from twd.coordinator.core.layers import quotas, refused
from twd.coordinator.core.placement.filling import by_split, placed, quality
from twd.coordinator.core.placement.values import (
    ASSUMED,
    MachineLink,
    ModelShape,
    Placement,
    PlacementDemand,
    PlacementDevice,
    needed,
)

TRIED_NODES: Final = 8
TRIED_DEVICES: Final = 600
"""Devices at most in all swapped orders together; orders of a long ring take longer to try."""
SWAP_GAIN: Final = 0.01
"""Another order must be faster by at least this share."""


def place(
    shape: ModelShape, devices: Sequence[PlacementDevice], links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Return the fastest placement that fits; where none fits, the one that lacks least, with what is missing."""
    if demand.split:
        if refused(quotas(demand.split, len(shape.layer_bytes), shape.cuts.multiple), shape.cuts):
            return _nothing(shape, demand)
        return placed(shape, by_split(devices, demand.split), links, demand, demand.split)
    usable = sorted((device for device in devices if device.capacity > 0), key=lambda d: d.key)
    tried = [placed(shape, order, links, demand) for order in _orders(usable, demand.home.node, links)]
    best = min(tried, key=quality, default=_nothing(shape, demand))
    if not best.fits:
        return best
    best = _without_the_useless(shape, best, links, demand)
    return _with_swaps(shape, best, links, demand) if demand.ring else best


def _nothing(shape: ModelShape, demand: PlacementDemand) -> Placement:
    return Placement(missing_bytes=needed(shape, demand))


def _orders(
    devices: Sequence[PlacementDevice], home: str, links: Mapping[str, MachineLink]
) -> Iterator[list[PlacementDevice]]:
    quick = sorted(devices, key=lambda d: (-d.speed, d.key))
    roomy = sorted(devices, key=lambda d: (-d.capacity, d.key))
    for order in (quick, roomy, near_first(quick, links, home)):
        yield _home_at_an_end(order, home, first=True)
        yield _home_at_an_end(order, home, first=False)
    for node in list(dict.fromkeys(device.node for device in roomy))[:TRIED_NODES]:
        yield [device for device in quick if device.node == node]


def near_first(
    devices: Sequence[PlacementDevice], links: Mapping[str, MachineLink], home: str
) -> list[PlacementDevice]:
    """Sort by distance, home first; differences within a millisecond do not count, so that plans do not follow every
    measurement."""
    far = {device.node: round(links.get(device.node, ASSUMED).rtt_s * 1000) for device in devices}
    return sorted(devices, key=lambda device: (device.node != home, far[device.node]))


def _home_at_an_end(order: Sequence[PlacementDevice], home: str, first: bool) -> list[PlacementDevice]:
    """Put devices of one machine side by side, and the home machine's at one end: in the middle, passes would cross its
    links twice."""
    by_node: dict[str, list[PlacementDevice]] = {}
    for device in order:
        by_node.setdefault(device.node, []).append(device)
    at_home = by_node.pop(home, [])
    others = [device for devices in by_node.values() for device in devices]
    return [*at_home, *others] if first else [*others, *at_home]


def _without_the_useless(
    shape: ModelShape, best: Placement, links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Leave out devices, one after the other, whose links cost more time than they save; a device whose share has no
    room elsewhere stays."""
    while len(best.pieces) > 1:
        order = [piece.device for piece in best.pieces if piece.end > piece.first]
        spare = sum(device.capacity for device in {*order, demand.home}) - needed(shape, demand)
        fewer = [
            placed(shape, [device for device in order if device is not dropped], links, demand)
            for dropped in order
            if dropped.key == demand.home.key or dropped.capacity <= spare
        ]
        better = min(fewer, key=quality, default=best)
        if quality(better) >= quality(best):
            break
        best = better
    return best


def _with_swaps(
    shape: ModelShape, best: Placement, links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Swap two devices wherever that makes the placement faster; devices at home stay."""
    order = [piece.device for piece in best.pieces if piece.end > piece.first]
    away = [index for index, device in enumerate(order) if device.node != demand.home.node]
    for first, second in islice(combinations(reversed(away), 2), TRIED_DEVICES // max(1, len(order))):
        order[first], order[second] = order[second], order[first]
        swapped = placed(shape, order, links, demand)
        if swapped.fits and swapped.pass_s < (1 - SWAP_GAIN) * best.pass_s:
            best = swapped
        else:
            order[first], order[second] = order[second], order[first]
    return best
