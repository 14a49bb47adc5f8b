"""Which layers of a model go on which devices. Plain values in, a placement with its reasons out.

A pass reads every weight once, so a device's time is bytes over speed; each machine on the way adds its link. Layers
fill the devices of an order one after the other; several orders are tried, devices that do not pay are dropped, and
the quickest is taken. No device gets more than it has free.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, pairwise
from typing import Final

from twd.coordinator.core.layers import as_asked, as_they_fit, quotas, refused
from twd.coordinator.core.pass_time import Kinds, Reading, Speed
from twd.coordinator.core.pass_time import seconds as pass_seconds
from twd.gguf_tools.slice_rules import ANYWHERE, CutPoints

MIB: Final = 1024**2
RESERVE_BYTES: Final = 256 * MIB
RESERVE_SHARE: Final = 0.05
STATE_BYTES: Final = 4
"""Of one number of a hidden state, or of a logit, on the wire."""
TOKEN_BYTES: Final = 64
"""Of one token in a frame."""
WINDOW: Final = 8
AGREEMENT: Final = 0.75
"""What a usual drafter guesses right; the forecast with speculation rests on it."""
TRIED_NODES: Final = 8
TRIED_DEVICES: Final = 600
"""In all orders that are tried with two devices swapped: a long ring's take longer to try."""
SWAP_GAIN: Final = 0.01
"""What is quicker by less than this share is not worth another order."""
HEAD_GAIN: Final = 0.05
"""Over RPC the head leaves home for more than this alone: like machines never measure quite alike, and where the head
goes, windows are compared and timed anew."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PlacementDevice:
    """Somewhere to put layers. `speed` is in bytes of weights read a second."""

    node: str
    name: str
    free: int
    speed: float
    window_factor: float = 1.0
    """How much longer a window of 8 takes than one token."""
    process: str = ""
    """The worker that lends it, where nobody needs to start one."""
    kinds: Kinds = ()
    """The share of its speed that kernels of each kind of weights reach."""
    layer_s: float = 0.0
    """What every layer takes besides."""
    token_s: float = 0.0
    """What every token takes besides where this is home."""
    slower: Kinds = ()
    usually: float = 1.0
    """How many times as long as foretold models were measured to take here, by their kind of weights, and others."""

    @property
    def pace(self) -> Speed:
        """How fast it is."""
        return Speed(self.speed, self.kinds, self.layer_s, self.slower, self.usually)

    @property
    def key(self) -> Key:
        """Its name among all."""
        return (self.node, self.name)

    @property
    def capacity(self) -> int:
        """What may be planned: something stays free for working space and for what the system needs."""
        return max(0, self.free - max(RESERVE_BYTES, int(self.free * RESERVE_SHARE)))


@dataclass(frozen=True, slots=True)
class MachineLink:
    """The way between the home machine and another."""

    rtt_s: float = 0.001
    bytes_s: float = 100e6
    measured: bool = False
    """Whether the bandwidth is; else it is assumed."""


ASSUMED: Final = MachineLink()
"""Where nothing was measured."""


def pair(one: str, other: str) -> str:
    """Under this name the way between two machines is known, neither of which is home."""
    return " ".join(sorted((one, other)))


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model as placement sees it. `kv_layer` is what one token takes in one layer's cache."""

    name: str
    layer_bytes: tuple[int, ...]
    head_bytes: int
    embedding_bytes: int
    embedding: int
    vocabulary: int
    kv_layer: int
    ctx_size: int = 0
    cuts: CutPoints = ANYWHERE
    """Where the engine may cut it: a ring makes models of its slices."""
    reads: Kinds = ()
    """The share of its layers' bytes that one token reads, by kind of weights; empty: all of them."""
    head_kind: str = ""
    read_tokens: int = 0
    """Forecasts are for texts of this length."""


@dataclass(frozen=True, slots=True)
class PlacementDemand:
    """What the model is needed for, and from where. `split` gives each device its share, in their order."""

    ctx: int
    sessions: int
    home: PlacementDevice
    """The processor of the machine that serves: it may keep the head, and in all but a ring it has the embeddings."""
    engine: str = "ring"
    split: tuple[float, ...] = ()

    @property
    def ring(self) -> bool:
        """Whether states travel from stage to stage: then the first one has the embeddings."""
        return self.engine == "ring"


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What one device gets."""

    device: PlacementDevice
    first: int
    end: int
    weight_bytes: int = 0
    kv_bytes: int = 0
    other_bytes: int = 0
    head: bool = False

    @property
    def total(self) -> int:
        """Everything that it takes there."""
        return self.weight_bytes + self.kv_bytes + self.other_bytes


@dataclass(frozen=True, slots=True)
class Placement:
    """Where everything goes; `missing_bytes` when it does not fit."""

    pieces: tuple[DeviceShare, ...] = ()
    missing_bytes: int = 0
    pass_s: float = 0.0
    window_s: float = 0.0
    link_s: float = 0.0
    helps: tuple[str, ...] = ()

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
        """The same with windows of 8 guesses of which three in four are right; plain where that is quicker."""
        kept = (1 - AGREEMENT ** (WINDOW + 1)) / (1 - AGREEMENT)
        return max(self.plain_tok_s, kept / self.window_s) if self.window_s else 0.0


@dataclass(slots=True)
class _Filling:
    """One attempt: what is left on each device."""

    costs: Sequence[int]
    """Of each layer, with its cache."""
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
    """The quickest placement that fits; the fullest, with what is missing, where none does."""
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
    """What all sessions' tokens take in one layer's cache."""
    return shape.kv_layer * demand.ctx * demand.sessions


def needed(shape: ModelShape, demand: PlacementDemand) -> int:
    """Everything that the model takes, wherever it lies."""
    kv = kv_layer(shape, demand) * len(shape.layer_bytes)
    return sum(shape.layer_bytes) + shape.head_bytes + shape.embedding_bytes + kv


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
    """By their distance; within a millisecond they stay as they are, so that plans do not follow every measurement."""
    far = {device.node: round(links.get(device.node, ASSUMED).rtt_s * 1000) for device in devices}
    return sorted(devices, key=lambda device: (device.node != home, far[device.node]))


def _home_at_an_end(order: Sequence[PlacementDevice], home: str, first: bool) -> list[PlacementDevice]:
    """Devices of one machine side by side, those at home at one end: a way through it in the middle costs twice."""
    by_node: dict[str, list[PlacementDevice]] = {}
    for device in order:
        by_node.setdefault(device.node, []).append(device)
    at_home = by_node.pop(home, [])
    others = [device for devices in by_node.values() for device in devices]
    return [*at_home, *others] if first else [*others, *at_home]


def _without_the_useless(
    shape: ModelShape, best: Placement, links: Mapping[str, MachineLink], demand: PlacementDemand
) -> Placement:
    """Leave out devices whose share costs more on the way than it saves, one after the other; what is too large for the
    room that the others have left is not tried without."""
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
    """The same devices, two of them in each other's place wherever that makes it quicker; what is at home stays."""
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
    """The better of both places for the head: at home, or behind the last layer."""
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
    filling.take(home, shape.head_bytes if head_at_home else 0)
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
    """Where the ring begins: that device has the embeddings, so it needs room for some layers beside them."""
    if asked:
        return next(index for index, count in enumerate(asked) if count)
    least = shape.embedding_bytes + sum(filling.costs[: shape.cuts.multiple])
    return next((index for index, room in enumerate(filling.rooms(order)) if room >= least), 0)


def _pieces(
    filling: _Filling, order: Sequence[PlacementDevice], counts: Sequence[int], shape: ModelShape, kv: int
) -> list[DeviceShare]:
    pieces: list[DeviceShare] = []
    first = 0
    for device, count in zip(order, counts, strict=False):  # those behind one without room have none
        if not count:
            continue
        end = first + count
        filling.take(device, sum(filling.costs[first:end]))
        pieces.append(DeviceShare(device, first, end, sum(shape.layer_bytes[first:end]), kv * count))
        first = end
    return pieces


def _head_behind(
    filling: _Filling, order: Sequence[PlacementDevice], pieces: list[DeviceShare], shape: ModelShape
) -> list[DeviceShare]:
    """The head on the device of the last layer, else on the next one that has room."""
    size = shape.head_bytes
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
    """The embeddings, and the head where it stays at home; in a ring that is its last stage."""
    if not demand.ring:
        return _with_home(pieces, demand, shape.embedding_bytes + (shape.head_bytes if head else 0), head)
    if pieces:
        pieces[0] = replace(pieces[0], other_bytes=pieces[0].other_bytes + shape.embedding_bytes)
    if not head:
        return pieces
    if pieces and pieces[-1].device.key == demand.home.key:
        return [
            *pieces[:-1],
            replace(pieces[-1], other_bytes=pieces[-1].other_bytes + shape.head_bytes, head=True),
        ]
    end = len(shape.layer_bytes)
    return [*pieces, DeviceShare(demand.home, end, end, other_bytes=shape.head_bytes, head=True)]


def _with_home(pieces: list[DeviceShare], demand: PlacementDemand, extra: int, head: bool) -> list[DeviceShare]:
    for index, piece in enumerate(pieces):
        if piece.device.key == demand.home.key:
            pieces[index] = replace(piece, other_bytes=piece.other_bytes + extra, head=piece.head or head)
            return pieces
    return [DeviceShare(demand.home, 0, 0, other_bytes=extra, head=head), *pieces]


# -- a configured split --------------------------------------------------------------------------------


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
        taken = seconds(piece, shape)
        compute += taken
        window += taken * piece.device.window_factor
    link_s = _way(placement, shape, links, demand, 1)
    return replace(
        placement,
        pass_s=compute + link_s + demand.home.token_s,
        window_s=window + _way(placement, shape, links, demand, WINDOW + 1) + demand.home.token_s,
        link_s=link_s,
    )


def seconds(piece: DeviceShare, shape: ModelShape) -> float:
    """One token's pass over what a device holds."""
    read = reading(shape, piece.end - piece.first, piece.weight_bytes, piece.head)
    return pass_seconds(read, piece.device.pace)


def reading(shape: ModelShape, layers: int, weight_bytes: int, head: bool) -> Reading:
    """What one token reads of some of a model's layers, and of the head."""
    cache = shape.kv_layer * shape.read_tokens * layers
    return Reading(layers, weight_bytes, shape.reads, cache, shape.head_bytes if head else 0, shape.head_kind)


def _way(
    placement: Placement, shape: ModelShape, links: Mapping[str, MachineLink], demand: PlacementDemand, tokens: int
) -> float:
    """Time on the wires for one pass."""
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
        if nodes[end] != home:  # tokens go out to where the embeddings are, and come from where the head is
            sizes[end] = TOKEN_BYTES * tokens
    return sum(link.rtt_s / 2 + size / link.bytes_s for link, size in zip(hops, sizes, strict=True))


def _between(a: str, b: str, home: str, links: Mapping[str, MachineLink]) -> MachineLink:
    """Where two machines talk that are not home: what they measured, else the slower of both ends' links."""
    if home in (a, b):
        return links.get(b if a == home else a, ASSUMED)
    one, other, own = links.get(a, ASSUMED), links.get(b, ASSUMED), links.get(pair(a, b))
    bytes_s = min(one.bytes_s, other.bytes_s)
    if own is None:
        return MachineLink(max(one.rtt_s, other.rtt_s), bytes_s)
    return own if own.measured else replace(own, bytes_s=bytes_s)
