"""Placement of a mixture that is larger than all memory together: each stage reads its own experts from disk. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from twd.coordinator.core.placement.search import place
from twd.coordinator.core.placement.values import MachineLink, ModelShape, Placement, PlacementDemand, PlacementDevice
from twd.wire.node import CPU

_SHARES: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Of the experts, in memory; the largest that fits is taken."""


def place_streamed(
    shape: ModelShape, devices: Sequence[PlacementDevice], links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement | None:
    """Return a placement on processors in which memory holds only a share of the experts; None if there is none."""
    if not demand.ring or not any(shape.mixture.layer_bytes):
        return None
    processors = [device for device in devices if device.name == CPU]
    for share in _SHARES:
        placement = place(with_share(shape, share), processors, links, demand)
        if placement.fits:
            return replace(placement, notes=(note(share),))
    return None


def with_share(shape: ModelShape, share: float) -> ModelShape:
    """Return the shape of the model as memory sees it with such a share of its experts."""
    on_disk = tuple(int((1 - share) * experts) for experts in shape.mixture.layer_bytes)
    layers = zip(shape.layer_bytes, on_disk, strict=True)
    mixture = replace(shape.mixture, disk_bytes=on_disk)
    return replace(shape, layer_bytes=tuple(whole - away for whole, away in layers), mixture=mixture)


def note(share: float) -> str:
    """Return what to tell of it."""
    return f"memory holds about {share:.0%} of its experts; the others are read from disk while it computes"
