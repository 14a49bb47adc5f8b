"""Which layers of a model lie where, and why."""

from typing import Annotated

import msgspec
from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, ModelId, Name, NodeId, Part

CERTIFICATE_FACT = "certificate"
"""Under this name a speculator's lease keeps the certificate with which it comes to workers."""

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
    spares: list[Slice] = []
    """Copies of slices on other machines, kept ready; one takes the place of the slice whose process has its name."""


def read_placement(value: bytes) -> PlacementDecided | None:
    """A decision as it stands in the registry; None for anything else."""
    try:
        return msgspec.json.decode(value, type=PlacementDecided)
    except msgspec.MsgspecError:
        return None


def placement_key(model: str) -> str:
    """Where the registry keeps a model's decision for those who come late."""
    return f"coordinator.placement.{model.encode().hex()}"
