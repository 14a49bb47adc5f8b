"""Who decides: of several coordinators the one that holds the lease."""

import msgspec

from twd.wire.base import InstanceId, NodeId
from twd.wire.reading import read_as


class CoordinatorLease(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides now: the value of the coordinators' key in the registry."""

    instance: InstanceId
    node: NodeId
    pid: int


def read_coordinator(value: bytes) -> CoordinatorLease | None:
    """The same from the registry; None for anything else."""
    return read_as(CoordinatorLease, value)


def may_act(now: float, renewed_at: float, lease_s: float) -> bool:
    """Whether our right to decide is fresh enough that nobody else can have it yet."""
    return now - renewed_at < lease_s * 0.6
