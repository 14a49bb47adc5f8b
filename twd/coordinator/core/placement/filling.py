"""Fills devices with layers, in a given order: what each holds, and where the embeddings and the output head go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from twd.coordinator.core.layers import as_asked, as_they_fit, quotas
from twd.coordinator.core.placement.timing import timed
from twd.coordinator.core.placement.values import (
    DeviceShare,
    Key,
    MachineLink,
    ModelShape,
    Placement,
    PlacementDemand,
    PlacementDevice,
    kv_layer,
)

HEAD_GAIN: Final = 0.05
"""Over RPC the head leaves the home machine only for a gain above this share: similar machines never measure quite the
same, and a moved head means that windows are compared and timed again."""


@dataclass(slots=True)
class _Filling:
    """One attempt to fill devices: the bytes left on each."""

    costs: Sequence[int]
    """Bytes of each layer, with its cache."""
    left: dict[Key, int]
    missing: int = 0

    def take(self, device: PlacementDevice, size: int) -> None:
        self.missing += max(0, size - self.left[device.key])
        self.left[device.key] = max(0, self.left[device.key] - size)

    def rooms(self, order: Sequence[PlacementDevice]) -> list[int]:
        return [self.left[device.key] for device in order]


def quality(placement: Placement) -> tuple[int, float, int]:
    """Return what placements are compared by: the least is the best."""
    return (placement.missing_bytes, placement.pass_s, len(placement.pieces))


def placed(
    shape: ModelShape,
    order: Sequence[PlacementDevice],
    links: Mapping[str, MachineLink],
    demand: PlacementDemand,
    split: Sequence[float] = (),
) -> Placement:
    """Return the better placement of the head: at home, or behind the last layer."""
    at_home = _fill(shape, order, links, demand, split, head_at_home=True)
    behind = _fill(shape, order, links, demand, split, head_at_home=False)
    if not demand.ring and at_home.fits and behind.pass_s > (1 - HEAD_GAIN) * at_home.pass_s:
        return at_home
    return min(at_home, behind, key=quality)


def _fill(
    shape: ModelShape,
    order: Sequence[PlacementDevice],
    links: Mapping[str, MachineLink],
    demand: PlacementDemand,
    split: Sequence[float],
    head_at_home: bool,
) -> Placement:
    home, kv = demand.home, kv_layer(shape, demand)
    left = {device.key: device.capacity for device in (*order, home)}
    filling = _Filling([weight + kv for weight in shape.layer_bytes], left)
    filling.take(home, shape.end_bytes if head_at_home else 0)
    asked = quotas(split, len(filling.costs), shape.cuts.multiple) if split else []
    start = _first_stage(filling, order, asked, shape) if demand.ring else 0
    order, asked = order[start:], asked[start:]
    filling.take(order[0] if demand.ring and order else home, shape.embedding_bytes)
    rooms = filling.rooms(order)
    counts = as_asked(filling.costs, rooms, asked) if asked else as_they_fit(filling.costs, rooms, shape.cuts)
    filling.missing += sum(filling.costs[sum(counts) :])
    pieces = _pieces(filling, order, counts, shape, kv)
    if not head_at_home:
        pieces = _head_behind(filling, order, pieces, shape)
    if filling.missing:
        return Placement((), filling.missing)
    return timed(Placement(tuple(_with_ends(pieces, shape, demand, head_at_home))), shape, links, demand)


def _first_stage(filling: _Filling, order: Sequence[PlacementDevice], asked: Sequence[int], shape: ModelShape) -> int:
    """Return the index of the ring's first device: it has the embeddings, so it needs room for some layers besides."""
    if asked:
        return next(index for index, count in enumerate(asked) if count)
    least = shape.embedding_bytes + sum(filling.costs[: shape.cuts.multiple])
    return next((index for index, room in enumerate(filling.rooms(order)) if room >= least), 0)


def _pieces(
    filling: _Filling, order: Sequence[PlacementDevice], counts: Sequence[int], shape: ModelShape, kv: int
) -> list[DeviceShare]:
    pieces: list[DeviceShare] = []
    first = 0
    for device, count in zip(order, counts, strict=False):  # devices after one without room get none
        if not count:
            continue
        end = first + count
        filling.take(device, sum(filling.costs[first:end]))
        weights, on_disk = shape.mixture.split(shape.layer_bytes, first, end)
        pieces.append(DeviceShare(device, first, end, weights, kv * count, disk_bytes=on_disk))
        first = end
    return pieces


def _head_behind(
    filling: _Filling, order: Sequence[PlacementDevice], pieces: list[DeviceShare], shape: ModelShape
) -> list[DeviceShare]:
    """Put the head on the device of the last layer, else on the next one that has room."""
    size = shape.end_bytes
    last = pieces[-1].device.key if pieces else None
    start = next((i for i, device in enumerate(order) if device.key == last), 0)
    device = next((device for device in order[start:] if filling.left[device.key] >= size), None)
    if device is None:
        filling.missing += size
        return pieces
    filling.take(device, size)
    if device.key == last:
        return [*pieces[:-1], replace(pieces[-1], other_bytes=size, head=True)]
    end = len(shape.layer_bytes)
    return [*pieces, DeviceShare(device, end, end, other_bytes=size, head=True)]


def _with_ends(pieces: list[DeviceShare], shape: ModelShape, demand: PlacementDemand, head: bool) -> list[DeviceShare]:
    """Add the embeddings, and the head where it stays at home; in a ring home is then the output stage."""
    if not demand.ring:
        return _with_home(pieces, demand, shape.embedding_bytes + (shape.end_bytes if head else 0), head)
    if pieces:
        pieces[0] = replace(pieces[0], other_bytes=pieces[0].other_bytes + shape.embedding_bytes)
    if not head:
        return pieces
    if pieces and pieces[-1].device.key == demand.home.key:
        return [
            *pieces[:-1],
            replace(pieces[-1], other_bytes=pieces[-1].other_bytes + shape.end_bytes, head=True),
        ]
    end = len(shape.layer_bytes)
    return [*pieces, DeviceShare(demand.home, end, end, other_bytes=shape.end_bytes, head=True)]


def _with_home(pieces: list[DeviceShare], demand: PlacementDemand, extra: int, head: bool) -> list[DeviceShare]:
    for index, piece in enumerate(pieces):
        if piece.device.key == demand.home.key:
            pieces[index] = replace(piece, other_bytes=piece.other_bytes + extra, head=piece.head or head)
            return pieces
    return [DeviceShare(demand.home, 0, 0, other_bytes=extra, head=head), *pieces]


def by_split(devices: Sequence[PlacementDevice], split: Sequence[float]) -> list[PlacementDevice]:
    """Return the devices in the order of the shares; there must be one for each."""
    if len(devices) != len(split):
        raise ValueError(f"{len(split)} shares for {len(devices)} devices")
    return list(devices)
