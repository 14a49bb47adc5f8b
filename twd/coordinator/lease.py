"""The coordinators' lease: of several coordinators, the one that holds it decides."""

import msgspec

from twd.wire.base import InstanceId, NodeId
from twd.wire.reading import read_as


class CoordinatorLease(msgspec.Struct, frozen=True, kw_only=True):
    """The value of the coordinators' key in the registry: which coordinator decides now."""

    instance: InstanceId
    node: NodeId
    pid: int


def read_coordinator(value: bytes) -> CoordinatorLease | None:
    """Read this value from the registry; None for anything else."""
    return read_as(CoordinatorLease, value)


def may_act(now: float, renewed_at: float, lease_s: float) -> bool:
    """Whether the lease was renewed so recently that no other coordinator can have taken it yet."""
    return now - renewed_at < lease_s * 0.6
