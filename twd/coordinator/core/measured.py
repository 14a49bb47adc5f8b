"""Speeds of devices from measurements instead of estimates. Plain values in and out.

Stages report what their layers cost. A device without a stage is corrected by the usual ratio of measured to estimated
speed of its kind; otherwise it would look better only because it was never tried.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import msgspec

from twd.coordinator.core.placement.values import WINDOW, Key, ModelShape, PlacementDevice
from twd.wire.node import CPU
from twd.wire.placement import PlacementDecided, Slice
from twd.wire.ring import StageReady

WORTH_TELLING = 0.1
"""A forecast with a smaller relative error is left as it is."""
LEAST_MS = 0.001
"""The smallest time in milliseconds that is published."""


@dataclass(frozen=True, slots=True)
class DevicePace:
    """The measured speed of one device: bytes of weights a second, and how many times a window of 8 costs one token."""

    speed: float
    window_factor: float = 1.0
    model: str = ""
    """What was measured: of a mixture a token reads only a share of the weights."""


Paces = Mapping[Key, DevicePace]
_ALL_IN: Final[dict[str, Any]] = {"kinds": (), "layer_s": 0.0, "slower": (), "usually": 1.0}
"""Values of a measured device: its speed already includes all these effects."""


def paces_of(stages: Iterable[StageReady], decided: Iterable[PlacementDecided]) -> dict[Key, DevicePace]:
    """Return the speeds of devices on which stages of a decision have measured their slices."""
    told = {(stage.node, stage.model, stage.first, stage.end): stage for stage in stages}
    found: dict[Key, DevicePace] = {}
    for decision in decided:
        for piece in (*decision.slices, *decision.spares):
            stage = told.get((piece.node, decision.model, piece.first, piece.end))
            if stage is not None and (pace := _pace(stage, piece)) is not None:
                found[piece.node, piece.device] = pace
    return found


def _pace(stage: StageReady, piece: Slice) -> DevicePace | None:
    taken_ms = stage.layer_ms * (stage.end - stage.first)
    size = piece.weight_bytes + piece.disk_bytes  # stages are timed with experts that are in memory
    if taken_ms <= 0 or not size:
        return None
    costs = {point.width: point.ms for point in stage.cost}
    wide = min((width for width in costs if width >= WINDOW), default=0)
    factor = max(1.0, costs[wide] / costs[1]) if wide and costs.get(1) else 1.0
    return DevicePace(size / (taken_ms / 1000), factor, stage.model)


def with_paces(
    devices: Sequence[PlacementDevice], paces: Paces, reads: Mapping[str, float] | None = None
) -> tuple[PlacementDevice, ...]:
    """Return the devices with measured speeds; the others are corrected by the usual ratio of their kind. `reads`: the
    share of its weights that a token reads, by model, where that is not all of them."""
    if not paces:
        return tuple(devices)
    paces = {key: replace(pace, speed=pace.speed * (reads or {}).get(pace.model, 1.0)) for key, pace in paces.items()}
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for device in devices:
        if device.key in paces:
            ratios[device.name == CPU].append(paces[device.key].speed / device.speed)
    usual = {kind: median(found) if found else 1.0 for kind, found in ratios.items()}
    return tuple(_as_measured(device, paces.get(device.key), usual[device.name == CPU]) for device in devices)


def _as_measured(device: PlacementDevice, pace: DevicePace | None, usual: float) -> PlacementDevice:
    if pace is None:
        return replace(device, speed=device.speed * usual)
    return replace(device, speed=pace.speed, window_factor=pace.window_factor, **_ALL_IN)


def reads_of(shapes: Iterable[tuple[str, ModelShape | None]]) -> dict[str, float]:
    """Return the share of its weights that one token of a model reads, by model."""
    return {name: sum(share for _, share in shape.reads) for name, shape in shapes if shape is not None and shape.reads}


def retimed(decision: PlacementDecided, shape: ModelShape, paces: Paces) -> PlacementDecided:
    """Return the decision with measured times; the same object where the forecast was good enough."""
    slices = [_retimed(piece, shape, paces) for piece in decision.slices]
    before, now = (sum(piece.ms for piece in pieces) for pieces in (decision.slices, slices))
    if not before or not decision.plain_tok_s or abs(now - before) < WORTH_TELLING * before:
        return decision
    token_ms = 1000 / decision.plain_tok_s
    way_ms = max(0.0, token_ms - before)  # at least 0, since the rate was rounded
    better = token_ms / max(way_ms + now, LEAST_MS)
    return msgspec.structs.replace(
        decision,
        slices=slices,
        plain_tok_s=round(decision.plain_tok_s * better, 2),
        speculative_tok_s=round(decision.speculative_tok_s * better, 2),
    )


def _retimed(piece: Slice, shape: ModelShape, paces: Paces) -> Slice:
    pace = paces.get((piece.node, piece.device))
    if pace is None or piece.disk_bytes:
        return piece
    read = piece.weight_bytes + (shape.head_bytes if piece.head else 0)  # the measured speed includes the rest
    return msgspec.structs.replace(piece, ms=round(read / pace.speed * 1000, 3))
