"""The life of services, and what the bus says of itself."""

import enum
from collections.abc import Iterable
from typing import Annotated, TypeVar

from msgspec import Meta, Raw
from msgspec.structs import replace

from twd.wire.base import Count, Event, InstanceId, Name, NodeId, Part
from twd.wire.failures import Failure
from twd.wire.leases.base import LeaseFacts, WorkerFacts
from twd.wire.leases.reading import read_facts
from twd.wire.reading import read_as

F = TypeVar("F", bound=LeaseFacts)


class Health(enum.StrEnum):
    """How a service judges itself: `ok` means that it did its work recently, or could."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    DRAINING = "draining"


class ServiceLease(Part, frozen=True):
    """The value of a service's key in the lease registry; gone when the service is."""

    service: Name
    instance: InstanceId
    node: NodeId
    pid: Count
    version: str
    started_ms: Count
    renewed_ms: Count
    health: Health = Health.OK
    note: Annotated[str, Meta(max_length=1024)] = ""
    facts: LeaseFacts = LeaseFacts()
    """The struct of its service."""
    unread: Annotated[str, Meta(max_length=1024)] = ""
    """What of its facts could not be read; set by those who read it, never by the service."""

    def told(self, kind: type[F]) -> F | None:
        """Its facts, if it is a service of this kind."""
        return self.facts if isinstance(self.facts, kind) else None

    @property
    def model(self) -> str:
        """The model that it has; empty for a service without one."""
        return self.facts.model if isinstance(self.facts, WorkerFacts) else ""


def told_by(leases: Iterable[ServiceLease | None], kind: type[F]) -> list[tuple[ServiceLease, F]]:
    """The leases of services of one kind, each with its facts."""
    pairs = ((lease, lease.told(kind)) for lease in leases if lease is not None)
    return [(lease, facts) for lease, facts in pairs if facts is not None]


class _Told(Part, frozen=True):
    """The facts of a lease before its service says what they are."""

    facts: Raw = Raw(b"{}")


def read_lease(value: bytes, key: str) -> ServiceLease | None:
    """A lease as it stands in the registry under its instance's name; None for anything else there."""
    lease = read_as(ServiceLease, value)
    if lease is None or lease.instance != key or not key.startswith(f"{lease.service}.{lease.node}."):
        return None
    told = read_as(_Told, value) or _Told()
    facts, unread = read_facts(lease.service, bytes(told.facts))
    return replace(lease, facts=facts, unread=unread[:1024])


class ServiceStarted(Event, frozen=True, tag="twd.v1.service.started"):
    """A service is ready to work."""

    service: Name
    node: NodeId
    pid: Count
    version: str


class ServiceStopped(Event, frozen=True, tag="twd.v1.service.stopped"):
    """A service ended in good order; it publishes nothing after this."""

    service: Name
    node: NodeId
    reason: str = ""


class ServiceFaulted(Event, frozen=True, tag="twd.v1.service.faulted"):
    """A handler raised; the service stops and its supervisor starts another."""

    service: Name
    node: NodeId
    failure: Failure
    during: str = ""


class ServiceExited(Event, frozen=True, tag="twd.v1.service.exited"):
    """A supervisor saw one of its processes end, and says when it tries again."""

    service: Name
    node: NodeId
    pid: Count
    exit_code: int
    restarts: Count
    retry_in_ms: int = -1
    last_words: Annotated[str, Meta(max_length=4096)] = ""
    hung: Annotated[str, Meta(max_length=1024)] = ""
    """Why the supervisor ended it as hung; empty for one that ended by itself."""


class MessageDropped(Event, frozen=True, tag="twd.v1.message.dropped"):
    """A reader was too slow and its queue threw messages away."""

    subject: str
    count: Count
    policy: str = ""


class MessageRejected(Event, frozen=True, tag="twd.v1.message.rejected"):
    """A message could not be understood; it was counted and left aside. It also answers a request that was one."""

    subject: Annotated[str, Meta(max_length=512)]
    reason: Annotated[str, Meta(max_length=1024)]
    size_bytes: Count = 0
    repeated: Count = 1
