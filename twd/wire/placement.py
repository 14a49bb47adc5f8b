"""Which layers of a model lie where, and why."""

from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, ModelId, Name, NodeId, Part
from twd.wire.reading import read_as
from twd.wire.swarm import LayerRange

Rate = Annotated[float, Meta(ge=0)]


class Slice(Part, frozen=True):
    """What one device holds: the layers from `first` up to, not including, `end`."""

    node: NodeId
    device: Name
    first: Count
    end: Count
    weight_bytes: Count = 0
    kv_bytes: Count = 0
    other_bytes: Count = 0
    """Embeddings, output head and working space."""
    free_bytes: Count = 0
    head: bool = False
    """The output head lies here."""
    ms: Rate = 0.0
    """Expected: one token's pass over it."""
    process: str = ""
    """The process that holds it, started by the machine's agent; empty: the one that serves the model."""
    disk_bytes: Count = 0
    """Experts that have no place in its memory, and are read from disk while it computes."""
    moe_memory: Count = 0
    """Bytes for its experts that are read so; 0: what is free."""


class Fetch(Part, frozen=True):
    """Layers that a machine without the model's file must fetch before it can hold them."""

    node: NodeId
    layers: LayerRange
    bytes: Count
    """About how many."""
    sources: list[NodeId] = []
    """Who can give them."""


class PlacementDecided(Event, frozen=True, tag="twd.v1.placement.decided"):
    """Where a model goes; without slices it fits nowhere, and `missing_bytes` says by how much."""

    model: ModelId
    coordinator: InstanceId
    slices: list[Slice] = []
    missing_bytes: Count = 0
    notes: list[str] = []
    helps: list[str] = []
    plain_tok_s: Rate = 0.0
    speculative_tok_s: Rate = 0.0
    engine: str = ""
    """rpc, ring or llama-server."""
    home: NodeId = NodeId("")
    """The machine that serves the model."""
    links: dict[str, float] = {}
    """Round trips in milliseconds from home to the other machines, as they counted for this."""
    bandwidths: dict[str, Count] = {}
    """Bytes a second on the way to other machines, where that was measured; elsewhere it was assumed."""
    spares: list[Slice] = []
    """Copies of slices on other machines, kept ready; one takes the place of the slice whose process has its name."""
    replica: Annotated[int, Meta(ge=1)] = 1
    """Which of several that serve the model, each over workers of its own."""
    basis: str = ""
    """A digest of what it rests on: while that stays as it is, the next coordinator changes nothing."""
    fetches: list[Fetch] = []
    """What must come before all of it can serve, or before the model goes to a better place."""

    @property
    def place(self) -> str:
        """What this is the decision about: a model, or one of its replicas."""
        return place_of(self.model, self.replica)


def read_placement(value: bytes, key: str) -> PlacementDecided | None:
    """A decision as it stands in the registry under its place's name; None for anything else."""
    decided = read_as(PlacementDecided, value)
    return decided if decided is not None and key == placement_key(decided.place) else None


class Way(Part, frozen=True):
    """How far a machine is from the one that serves a model, as that measured it; 0: not measured."""

    node: NodeId
    rtt_ms: Rate = 0.0
    bandwidth: Count = 0
    """In bytes a second."""


class GuestUse(Part, frozen=True):
    """An RPC worker of a guest that a speculator holds, or could not use, and then why."""

    node: NodeId
    process: Name
    problem: str = ""


def place_of(model: str, replica: int) -> str:
    """A name that tells replicas of a model apart."""
    return model if replica <= 1 else f"{model}#{replica}"


def placement_key(place: str) -> str:
    """Where the registry keeps a decision for those who come late."""
    return f"coordinator.placement.{place.encode().hex()}"
