"""Which layers of a model lie where, and why."""

from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, ModelId, Name, NodeId, Part

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
