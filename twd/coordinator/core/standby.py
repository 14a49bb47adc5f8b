"""Spares of a ring: copies of its slices on other machines; each takes over where its original is lost.

A spare's process has the same name as its original's: only the decision says which of them serves.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from twd.coordinator.core.memory_ledger import is_ready, is_there, total
from twd.coordinator.core.placement.timing import seconds
from twd.coordinator.core.placement.values import DeviceShare, Key, ModelShape, PlacementDevice
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts
from twd.wire.placement import PlacementDecided, Slice

Room = Mapping[Key, int]
"""Bytes that each device can still take."""


def promoted(decision: PlacementDecided, nodes: Mapping[NodeId, NodeFacts]) -> PlacementDecided:
    """Return the decision with a ready spare in place of each slice that is not ready; the lost slice becomes a
    spare."""
    if not decision.spares:
        return decision
    slices, spares = list(decision.slices), list(decision.spares)
    for index, piece in enumerate(slices):
        if is_ready(piece, nodes):
            continue
        ready = (n for n, one in enumerate(spares) if one.process == piece.process and is_ready(one, nodes))
        if (found := next(ready, None)) is not None:
            slices[index], spares[found] = spares[found], piece
    return msgspec.structs.replace(decision, slices=slices, spares=spares)


def carried(decision: PlacementDecided, before: PlacementDecided | None) -> PlacementDecided:
    """Return a new decision with the other pieces of the last one as spares, if the last one has every piece that the
    new one needs."""
    if before is None or not before.spares or not decision.slices:
        return decision
    known = {(piece.node, piece.process): piece for piece in (*before.slices, *before.spares)}
    needed = {(piece.node, piece.process) for piece in decision.slices}
    if not needed <= known.keys():
        return decision
    return msgspec.structs.replace(decision, spares=[piece for key, piece in known.items() if key not in needed])


def trimmed(
    decision: PlacementDecided, nodes: Mapping[NodeId, NodeFacts], count: int, overdrawn: Collection[Key] = ()
) -> PlacementDecided:
    """Return the decision without spares on machines that left, of slices that no longer exist, above `count` for each
    slice, or whose memory was taken before they were started."""
    where = {piece.process: piece.node for piece in decision.slices}
    kept: list[Slice] = []
    for piece in decision.spares:
        beside = sum(one.process == piece.process for one in kept)
        original = where.get(piece.process, piece.node)
        fits = (piece.node, piece.device) not in overdrawn or is_there(piece, nodes)
        if beside < count and piece.node in nodes and piece.node != original and fits:
            kept.append(piece)
    return decision if kept == decision.spares else msgspec.structs.replace(decision, spares=kept)


def wants_more(decision: PlacementDecided, count: int) -> bool:
    """Whether slices have fewer spares than they should."""
    return len(decision.spares) < count * len(decision.slices)


def filled(
    decision: PlacementDecided,
    count: int,
    shape: ModelShape,
    devices: Sequence[PlacementDevice],
    room: Room,
    last_resort: NodeId | None = None,
) -> PlacementDecided:
    """Return the decision with as many spares as fit: the first of every slice before the second of any, large slices
    first."""
    filling = _Filling(decision, shape, devices, dict(room), last_resort, list(decision.spares))
    for wanted in range(1, count + 1):
        for piece in sorted(decision.slices, key=lambda piece: (-total(piece), piece.first)):
            filling.add(piece, wanted)
    return msgspec.structs.replace(decision, spares=filling.spares)


@dataclass(slots=True)
class _Filling:
    """The spares while devices are chosen for them."""

    decision: PlacementDecided
    shape: ModelShape
    devices: Sequence[PlacementDevice]
    room: dict[Key, int]
    last_resort: NodeId | None
    spares: list[Slice] = field(default_factory=list)

    def add(self, piece: Slice, wanted: int) -> None:
        """Add a spare of a slice, if it has fewer than wanted and a device has room."""
        has = {one.node for one in self.spares if one.process == piece.process}
        usable = [
            device
            for device in self.devices
            if device.node not in {piece.node, *has} and self.room.get(device.key, 0) >= total(piece)
        ]
        if len(has) >= wanted or not usable:
            return
        device = min(usable, key=self._rank())
        self.room[device.key] -= total(piece)
        self.spares.append(_spare(piece, device, self.shape))

    def _rank(self) -> Callable[[PlacementDevice], tuple[bool, int, float, int, Key]]:
        """Return the sort key: machines with few slices first, then fast devices."""
        busy = [piece.node for piece in (*self.decision.slices, *self.spares)]
        return lambda device: (
            device.node == self.last_resort,
            busy.count(NodeId(device.node)),
            -device.speed,
            -self.room[device.key],
            device.key,
        )


def _spare(piece: Slice, device: PlacementDevice, shape: ModelShape) -> Slice:
    share = DeviceShare(
        device, piece.first, piece.end, piece.weight_bytes, head=piece.head, disk_bytes=piece.disk_bytes
    )
    return msgspec.structs.replace(
        piece,
        node=NodeId(device.node),
        device=device.name,
        free_bytes=device.free,
        ms=round(seconds(share, shape) * 1000, 3),
    )
