"""Which layers of a model go on which devices. Plain values in, a placement with its reasons out.

A pass reads every weight once, so a device's time is bytes divided by speed; each further machine adds its link. Layers
fill the devices of an order one after the other. Several orders are tried, devices without benefit are dropped, and the
fastest placement is taken. No device gets more than its free memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, pairwise
from typing import Final

from twd.coordinator.core.layers import as_asked, as_they_fit, quotas, refused
from twd.coordinator.core.pass_time import DENSE, DISK_SPEED, Kinds, MixtureShape, Reading, Speed
from twd.coordinator.core.pass_time import seconds as pass_seconds
from twd.gguf_tools.slice_rules import ANYWHERE, CutPoints

MIB: Final = 1024**2
RESERVE_BYTES: Final = 256 * MIB
RESERVE_SHARE: Final = 0.05
STATE_BYTES: Final = 4
"""Bytes of one number of a hidden state, or of a logit, on the network."""
TOKEN_BYTES: Final = 64
"""Bytes of one token in a frame."""
WINDOW: Final = 8
AGREEMENT: Final = 0.75
"""Share of drafts that are accepted with a usual drafter; assumed in the forecast with speculation."""
TRIED_NODES: Final = 8
TRIED_DEVICES: Final = 600
"""Devices at most in all swapped orders together; orders of a long ring take longer to try."""
SWAP_GAIN: Final = 0.01
"""Another order must be faster by at least this share."""
HEAD_GAIN: Final = 0.05
"""Over RPC the head leaves the home machine only for a gain above this share: similar machines never measure quite the
same, and a moved head means that windows are compared and timed again."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PlacementDevice:
    """A device that can hold layers; `free` is in bytes, `speed` in bytes of weights read a second."""

    node: str
    name: str
    free: int
    speed: float
    window_factor: float = 1.0
    """How many times the time of one token a window of 8 takes."""
    process: str = ""
    """The RPC worker that lends it, where none needs to be started."""
    kinds: Kinds = ()
    """The share of its speed that kernels reach, for each kind of weights."""
    layer_s: float = 0.0
    """Additional seconds for every layer."""
    token_s: float = 0.0
    """Additional seconds for every token if this is the home machine."""
    slower: Kinds = ()
    usually: float = 1.0
    """How many times the forecast models took here, as measured: by their kind of weights, and for all others."""
    disk: float = DISK_SPEED

    @property
    def pace(self) -> Speed:
        """Its speed as `pass_time` needs it."""
        return Speed(self.speed, self.kinds, self.layer_s, self.slower, self.usually)

    @property
    def key(self) -> Key:
        """Its unique key: node and device name."""
        return (self.node, self.name)

    @property
    def capacity(self) -> int:
        """Bytes that may be planned; some stay free for working memory and for the system."""
        return max(0, self.free - max(RESERVE_BYTES, int(self.free * RESERVE_SHARE)))


@dataclass(frozen=True, slots=True)
class MachineLink:
    """The link between the home machine and another one."""

    rtt_s: float = 0.001
    bytes_s: float = 100e6
    measured: bool = False
    """Whether the bandwidth was measured; else it is assumed."""


ASSUMED: Final = MachineLink()
"""The link where nothing was measured."""


def pair(one: str, other: str) -> str:
    """Return the key of the link between two machines of which neither is home."""
    return " ".join(sorted((one, other)))


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model, in bytes. `kv_layer` is what one token takes in one layer's cache, `state_layer` what one
    session takes in one layer for its recurrent state."""

    name: str
    layer_bytes: tuple[int, ...]
    head_bytes: int
    embedding_bytes: int
    embedding: int
    vocabulary: int
    kv_layer: int
    ctx_size: int = 0
    cuts: CutPoints = ANYWHERE
    """Where the model may be cut: a ring makes a model of each slice."""
    reads: Kinds = ()
    """The share of its layers' bytes that one token reads, by kind of weights; empty: all of them."""
    head_kind: str = ""
    read_tokens: int = 0
    """Number of tokens in the cache that forecasts assume."""
    state_layer: int = 0
    mixture: MixtureShape = DENSE
    own_head_bytes: int = 0
    """What the model's own head (multi-token prediction) takes beside the output head, where a ring uses it."""

    @property
    def end_bytes(self) -> int:
        """What whoever has the output head keeps besides layers."""
        return self.head_bytes + self.own_head_bytes


@dataclass(frozen=True, slots=True)
class PlacementDemand:
    """How much the model must serve, and from which home. `split` gives each device its share, in their order."""

    ctx: int
    sessions: int
    home: PlacementDevice
    """The CPU of the machine that serves: it may keep the head, and in all but a ring it has the embeddings."""
    engine: str = "ring"
    split: tuple[float, ...] = ()

    @property
    def ring(self) -> bool:
        """Whether states travel from stage to stage: then the first one has the embeddings."""
        return self.engine == "ring"


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """The layers and bytes that one device gets."""

    device: PlacementDevice
    first: int
    end: int
    weight_bytes: int = 0
    kv_bytes: int = 0
    other_bytes: int = 0
    head: bool = False
    disk_bytes: int = 0

    @property
    def total(self) -> int:
        """All bytes that it takes there."""
        return self.weight_bytes + self.kv_bytes + self.other_bytes


@dataclass(frozen=True, slots=True)
class Placement:
    """What each device gets; `missing_bytes` when the model does not fit."""

    pieces: tuple[DeviceShare, ...] = ()
    missing_bytes: int = 0
    pass_s: float = 0.0
    window_s: float = 0.0
    link_s: float = 0.0
    helps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether there is room for all."""
        return not self.missing_bytes

    @property
    def plain_tok_s(self) -> float:
        """Tokens a second without drafts."""
        return 1.0 / self.pass_s if self.pass_s else 0.0

    @property
    def speculative_tok_s(self) -> float:
        """Tokens a second with windows of 8 drafts of which three in four are right; the plain rate where that is
        higher."""
        kept = (1 - AGREEMENT ** (WINDOW + 1)) / (1 - AGREEMENT)
        return max(self.plain_tok_s, kept / self.window_s) if self.window_s else 0.0


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


def place(
    shape: ModelShape, devices: Sequence[PlacementDevice], links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Return the fastest placement that fits; where none fits, the one that lacks least, with what is missing."""
    if demand.split:
        if refused(quotas(demand.split, len(shape.layer_bytes), shape.cuts.multiple), shape.cuts):
            return _nothing(shape, demand)
        return _placed(shape, _by_split(devices, demand.split), links, demand, demand.split)
    usable = sorted((device for device in devices if device.capacity > 0), key=lambda d: d.key)
    tried = [_placed(shape, order, links, demand) for order in _orders(usable, demand.home.node, links)]
    best = min(tried, key=_quality, default=_nothing(shape, demand))
    if not best.fits:
        return best
    best = _without_the_useless(shape, best, links, demand)
    return _with_swaps(shape, best, links, demand) if demand.ring else best


def _quality(placement: Placement) -> tuple[int, float, int]:
    return (placement.missing_bytes, placement.pass_s, len(placement.pieces))


def _nothing(shape: ModelShape, demand: PlacementDemand) -> Placement:
    return Placement(missing_bytes=needed(shape, demand))


def kv_layer(shape: ModelShape, demand: PlacementDemand) -> int:
    """Return the bytes that all sessions take in one layer's cache."""
    return (shape.kv_layer * demand.ctx + shape.state_layer) * demand.sessions


def needed(shape: ModelShape, demand: PlacementDemand) -> int:
    """Return all bytes that the model takes, wherever they are."""
    kv = kv_layer(shape, demand) * len(shape.layer_bytes)
    return sum(shape.layer_bytes) + shape.end_bytes + shape.embedding_bytes + kv


# -- orders in which devices are filled ----------------------------------------------------------------


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
            _placed(shape, [device for device in order if device is not dropped], links, demand)
            for dropped in order
            if dropped.key == demand.home.key or dropped.capacity <= spare
        ]
        better = min(fewer, key=_quality, default=best)
        if _quality(better) >= _quality(best):
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
        swapped = _placed(shape, order, links, demand)
        if swapped.fits and swapped.pass_s < (1 - SWAP_GAIN) * best.pass_s:
            best = swapped
        else:
            order[first], order[second] = order[second], order[first]
    return best


# -- filling -------------------------------------------------------------------------------------------


def _placed(
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
    return min(at_home, behind, key=_quality)


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
    return _timed(Placement(tuple(_with_ends(pieces, shape, demand, head_at_home))), shape, links, demand)


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


def _by_split(devices: Sequence[PlacementDevice], split: Sequence[float]) -> list[PlacementDevice]:
    if len(devices) != len(split):
        raise ValueError(f"{len(split)} shares for {len(devices)} devices")
    return list(devices)


# -- time ----------------------------------------------------------------------------------------------


def _timed(
    placement: Placement, shape: ModelShape, links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    compute = window = 0.0
    for piece in placement.pieces:
        taken, device = seconds(piece, shape), piece.device
        compute += taken
        window += taken * device.window_factor
        window += shape.mixture.more_disk_s(piece.disk_bytes, device.disk, WINDOW + 1, device.window_factor)
    link_s = _way(placement, shape, links, demand, 1)
    return replace(
        placement,
        pass_s=compute + link_s + demand.home.token_s,
        window_s=window + _way(placement, shape, links, demand, WINDOW + 1) + demand.home.token_s,
        link_s=link_s,
    )


def seconds(piece: DeviceShare, shape: ModelShape) -> float:
    """Return the seconds of one token's pass over what a device holds."""
    layers, weights, head = piece.end - piece.first, piece.weight_bytes + piece.disk_bytes, piece.head
    cache = shape.kv_layer * shape.read_tokens * layers
    read = Reading(layers, weights, shape.reads, cache, shape.head_bytes if head else 0, shape.head_kind)
    return pass_seconds(read, piece.device.pace) + shape.mixture.disk_s(piece.disk_bytes, piece.device.disk)


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
    hops = [_between(a, b, home, links) for a, b in pairwise(path) if a != b]
    sizes = [state] * len(hops)
    for end in (0, -1) if hops else ():
        if nodes[end] != home:  # only tokens go to the embeddings and come from the head
            sizes[end] = TOKEN_BYTES * tokens
    return sum(link.rtt_s / 2 + size / link.bytes_s for link, size in zip(hops, sizes, strict=True))


def _between(a: str, b: str, home: str, links: Mapping[str, MachineLink]) -> MachineLink:
    """Return the link of two machines; if neither is home, the measured one, else the slower of their links to home."""
    if home in (a, b):
        return links.get(b if a == home else a, ASSUMED)
    one, other, own = links.get(a, ASSUMED), links.get(b, ASSUMED), links.get(pair(a, b))
    bytes_s = min(one.bytes_s, other.bytes_s)
    if own is None:
        return MachineLink(max(one.rtt_s, other.rtt_s), bytes_s)
    return own if own.measured else replace(own, bytes_s=bytes_s)
