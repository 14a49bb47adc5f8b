"""How long one pass takes over a placement: computing on each device, and the way between machines."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Final

from twd.coordinator.core.pass_time import Reading
from twd.coordinator.core.pass_time import seconds as pass_seconds
from twd.coordinator.core.placement.values import (
    ASSUMED,
    WINDOW,
    DeviceShare,
    MachineLink,
    ModelShape,
    Placement,
    PlacementDemand,
    pair,
)
from twd.moe.overlap import overlapped

STATE_BYTES: Final = 4
"""Bytes of one number of a hidden state, or of a logit, on the network."""
RING_TOKEN_S: Final = 2.5e-3
"""Seconds for each pass of a ring, to pass frames on: stages time only what they compute."""
TOKEN_BYTES: Final = 64
"""Bytes of one token in a frame."""


def timed(
    placement: Placement, shape: ModelShape, links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Return a placement with its times."""
    compute = sum(seconds(piece, shape) for piece in placement.pieces)
    window = sum(seconds(piece, shape, WINDOW + 1) for piece in placement.pieces)
    link_s = _way(placement, shape, links, demand, 1)
    token_s = demand.home.token_s + (RING_TOKEN_S if demand.ring else 0.0)
    return replace(
        placement,
        pass_s=compute + link_s + token_s,
        window_s=window + _way(placement, shape, links, demand, WINDOW + 1) + token_s,
        link_s=link_s,
    )


def seconds(piece: DeviceShare, shape: ModelShape, rows: int = 1) -> float:
    """Return the seconds of a pass over what a device holds: of one token, or of a window."""
    layers, weights, head = piece.end - piece.first, piece.weight_bytes + piece.disk_bytes, piece.head
    cache = shape.kv_layer * shape.read_tokens * layers
    read = Reading(layers, weights, shape.reads, cache, shape.head_bytes if head else 0, shape.head_kind)
    factor = 1.0 if rows == 1 else piece.device.window_factor
    computing = pass_seconds(read, piece.device.pace) * factor
    reading = shape.mixture.disk_s(piece.first, piece.end, piece.disk_bytes, piece.device.disk, rows)
    return overlapped(computing, reading)


def _way(
    placement: Placement, shape: ModelShape, links: Mapping[str, MachineLink], demand: PlacementDemand, tokens: int
) -> float:
    """Return the seconds on the network for one pass."""
    home = demand.home.node
    stops = [piece.device.node for piece in placement.pieces if piece.end > piece.first or piece.head]
    nodes = [node for i, node in enumerate(stops) if i == 0 or stops[i - 1] != node]
    head_far = next((piece.device.node for piece in placement.pieces if piece.head), home) != home
    state = shape.embedding * STATE_BYTES * tokens
    answer = (shape.vocabulary if head_far else shape.embedding) * STATE_BYTES * tokens
    if demand.engine != "ring":  # llama.cpp asks each worker in turn and waits for it
        far = [links.get(node, ASSUMED) for node in dict.fromkeys(nodes) if node != home]
        return sum(link.rtt_s + state / link.bytes_s for link in far) + (answer / far[-1].bytes_s if far else 0.0)
    path = [home, *nodes, home]
    hops = [between(a, b, home, links) for a, b in pairwise(path) if a != b]
    sizes = [state] * len(hops)
    for end in (0, -1) if hops else ():
        if nodes[end] != home:  # only tokens go to the embeddings and come from the head
            sizes[end] = TOKEN_BYTES * tokens
    return sum(link.rtt_s / 2 + size / link.bytes_s for link, size in zip(hops, sizes, strict=True))


def between(a: str, b: str, home: str, links: Mapping[str, MachineLink]) -> MachineLink:
    """Return the link of two machines; if neither is home, the measured one, else the slower of their links to home."""
    if home in (a, b):
        return links.get(b if a == home else a, ASSUMED)
    one, other, own = links.get(a, ASSUMED), links.get(b, ASSUMED), links.get(pair(a, b))
    bytes_s = min(one.bytes_s, other.bytes_s)
    if own is None:
        return MachineLink(max(one.rtt_s, other.rtt_s), bytes_s)
    return own if own.measured else replace(own, bytes_s=bytes_s)
