"""The ring on the bus: its stages, how they are wired, what they measure. The states themselves travel on its links."""

import enum
from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, ModelId, Name, NodeId, Part
from twd.wire.failures import Failure
from twd.wire.model import CostPoint
from twd.wire.node import Port

Certificate = Annotated[str, Meta(max_length=16_384)]
"""In PEM; empty where a link is not encrypted."""
Ms = Annotated[float, Meta(ge=0.0)]
Index = Annotated[int, Meta(ge=0, lt=1024)]


class StateFormat(enum.StrEnum):
    """How hidden states are written on the links; f16 is not exact."""

    F32 = "f32"
    F16 = "f16"


class FrameFault(enum.StrEnum):
    """What can be wrong with what comes over a link."""

    GARBAGE = "garbage"
    """No frame of ours."""
    VERSION = "version"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    UNEXPECTED = "unexpected"
    """A frame that does not belong on this link."""
    UNKNOWN_SESSION = "unknown_session"
    OUT_OF_ORDER = "out_of_order"
    OUT_OF_RANGE = "out_of_range"
    """A slot, a position or a token that there is not."""
    PAST = "past"
    """Of an epoch, or of a ring, that is over."""
    NOT_NUMBERS = "not_numbers"
    """States that are not finite."""
    TOO_MANY = "too_many"
    """More in flight than was granted."""
    WRONG_KEY = "wrong_key"
    CUT = "cut"
    """The connection ended within a frame."""
    SILENT = "silent"
    """Nothing was heard for too long."""


class StageReady(Event, frozen=True, tag="twd.v1.stage.ready"):
    """A slice of a model is in memory and waits to be wired; its layers are [first, end)."""

    stage: InstanceId
    node: NodeId
    model: ModelId
    file_hash: str
    """Of the whole model's file, so that slices of different files never meet."""
    first: Index
    end: Index
    layers: Index
    """Of the whole model."""
    head: bool
    host: Name
    port: Port
    certificate: Certificate = ""
    slots: Count = 1
    ctx_size: Count = 0
    window_max: Count = 0
    n_embd: Count = 0
    build: str = ""
    """The engine's build and instruction set: logits are equal within one of them only."""
    settings: str = ""
    """How it computes, as far as exactness depends on it."""
    layer_ms: Ms = 0.0
    """Measured: one layer of one row."""
    head_ms: Ms = 0.0
    cost: Annotated[list[CostPoint], Meta(max_length=64)] = []
    """Measured: passes over the whole slice by their rows."""
    load_ms: Count = 0
    guess_ms: Ms = 0.0
    """Measured: one guess of the model's own head, which this stage has; 0: it has none."""


class StageWay(Part, frozen=True):
    """How far a stage's next one is, as it measured that itself; `bandwidth` in bytes a second, 0: not measured."""

    to: InstanceId
    rtt_ms: Ms
    bandwidth: Count = 0


class StageGone(Event, frozen=True, tag="twd.v1.stage.gone"):
    """A stage left in good order."""

    stage: InstanceId
    node: NodeId
    model: ModelId
    reason: Name = "stopped"


class RingWired(Event, frozen=True, tag="twd.v1.ring.wired"):
    """A speculator tells one stage its place in a ring; an older ring of this stage is over with it."""

    ring: Name
    stage: InstanceId
    home: InstanceId
    model: ModelId
    file_hash: str
    index: Index
    count: Annotated[int, Meta(ge=1, le=1024)]
    first: Index
    end: Index
    nonce: Annotated[str, Meta(min_length=32, max_length=128)]
    """Known to this ring's members alone; links prove that both ends know it."""
    next_host: str = ""
    next_port: Port = 0
    next_stage: InstanceId = InstanceId("")
    next_certificate: Certificate = ""
    home_certificate: Certificate = ""
    previous_certificate: Certificate = ""
    encrypted: bool = True
    states: StateFormat = StateFormat.F32


class StageAnswered(Event, frozen=True, tag="twd.v1.stage.answered"):
    """A stage took its place in a ring, or says why not."""

    ring: Name
    stage: InstanceId
    failure: Failure | None = None


class HopFacts(Part, frozen=True):
    """One link as one of its ends measured it. `bandwidth` in bytes a second, 0: not measured."""

    to: str
    rtt_ms: Ms = 0.0
    rtt_min_ms: Ms = 0.0
    bandwidth: Count = 0
    sent_bytes: Count = 0
    received_bytes: Count = 0


class RingMeasured(Event, frozen=True, tag="twd.v1.ring.measured"):
    """What a stage saw of its ring since the last such event, `seconds` ago."""

    ring: Name
    stage: InstanceId
    node: NodeId
    model: ModelId
    index: Index
    count: Count = 0
    first: Index = 0
    end: Index = 0
    seconds: Annotated[float, Meta(ge=0.0)] = 0.0
    passes: Count = 0
    rows: Count = 0
    """Computed, without padding."""
    kept: Count = 0
    """Positions that stand, as the last stage judged them; elsewhere 0."""
    dropped: Count = 0
    """Windows left out because their epoch was over."""
    aborted: Count = 0
    refused: Count = 0
    compute_ms: Ms = 0.0
    """Mean of a pass."""
    queue_ms: Ms = 0.0
    busy: Annotated[float, Meta(ge=0.0)] = 0.0
    """Share of the time in which it computed."""
    sessions: Count = 0
    hops: Annotated[list[HopFacts], Meta(max_length=8)] = []


class FrameRefused(Event, frozen=True, tag="twd.v1.frame.refused"):
    """Something came over a link that makes no sense; it did no harm."""

    stage: InstanceId
    node: NodeId
    fault: FrameFault
    peer: Annotated[str, Meta(max_length=256)] = ""
    detail: Annotated[str, Meta(max_length=1024)] = ""
    repeated: Count = 1
    """How often this fault was seen; told at 1, 2, 4, 8 ..."""
