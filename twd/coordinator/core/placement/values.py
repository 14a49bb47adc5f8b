"""What a placement is decided from, and what it is: devices, links, a model's sizes, what is asked, and shares."""

from dataclasses import dataclass
from typing import Final

from twd.coordinator.core.pass_time import DENSE, DISK_SPEED, Kinds, MixtureShape, Speed
from twd.gguf_tools.slice_rules import ANYWHERE, CutPoints

MIB: Final = 1024**2
RESERVE_BYTES: Final = 256 * MIB
RESERVE_SHARE: Final = 0.05
WINDOW: Final = 8
AGREEMENT: Final = 0.75
"""Share of drafts that are accepted with a usual drafter; assumed in the forecast with speculation."""
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


def kv_layer(shape: ModelShape, demand: PlacementDemand) -> int:
    """Return the bytes that all sessions take in one layer's cache."""
    return (shape.kv_layer * demand.ctx + shape.state_layer) * demand.sessions


def needed(shape: ModelShape, demand: PlacementDemand) -> int:
    """Return all bytes that the model takes, wherever they are."""
    kv = kv_layer(shape, demand) * len(shape.layer_bytes)
    return sum(shape.layer_bytes) + shape.end_bytes + shape.embedding_bytes + kv
