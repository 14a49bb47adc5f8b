"""Who may say and hear what: one table of roles, and from it the permissions of a broker's users.

`python -m twd.bus.permissions` prints them for `deploy/nats/permissions.conf`.
"""

import enum
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from twd.bus.base import INBOX_PREFIX
from twd.wire.base import Event
from twd.wire.draft import (
    DrafterAttached,
    DrafterChecked,
    DrafterDetached,
    DraftGranted,
    DraftProposed,
    SessionClosed,
    SessionOpened,
)
from twd.wire.embedding import EmbeddingMade, EmbeddingRequested
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobQueued, JobStarted, JobSubmitted, TokensAccepted
from twd.wire.judging import AnswerAudited, AnswerJudged, ModeClosed, TokensAgreed
from twd.wire.life import (
    ChangeAnswered,
    ChangeTold,
    MemoryReclaimed,
    ModelUnwanted,
    ModelWanted,
    ReclaimWanted,
    SwapWanted,
)
from twd.wire.model import ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.node import NodeChanged, ProcessAnswered, ProcessStarted, ProcessStopped, ProcessUnwanted, ProcessWanted
from twd.wire.placement import PlacementDecided
from twd.wire.ring import FrameRefused, RingMeasured, RingWired, StageGone, StageReady
from twd.wire.routes import EVERYTHING, ROUTE_OF, ROUTES, Delivery
from twd.wire.service import (
    MessageDropped,
    MessageRejected,
    ServiceExited,
    ServiceFaulted,
    ServiceStarted,
    ServiceStopped,
)
from twd.wire.trace import (
    HistoryReported,
    HistoryRequested,
    MetricsReported,
    MetricsRequested,
    TraceReported,
    TraceRequested,
)

REGISTRY: Final = "twd_services"
Events = tuple[type[Event], ...]

LIFE: Final[Events] = (ServiceStarted, ServiceStopped, ServiceFaulted, MessageRejected, MessageDropped)
"""What every service may tell about itself."""
_SERVICES: Final[Events] = (ServiceStarted, ServiceStopped, ServiceFaulted, ServiceExited)
_MODELS: Final[Events] = (ModelLoading, ModelReady, ModelMeasured, ModelFailed, ModelUnloaded)
_ANSWERS: Final[Events] = (JobStarted, TokensAccepted, JobFinished, JobFailed)
_POOLS: Final[Events] = (RingMeasured, FrameRefused)
_DRAFTING: Final[Events] = (SessionOpened, SessionClosed, DraftProposed, DrafterAttached, DrafterDetached)


class Registry(enum.IntEnum):
    """What a role may do in the registry of leases; each includes what stands before it."""

    OWN_LEASE = 0
    READ = 1
    MAKE = 2
    """Make it where it is missing."""
    CLEAR = 3
    """Take away the leases of others, whose processes it saw end."""


@dataclass(frozen=True)
class Role:
    """One kind of user: what it reads and writes."""

    name: str
    reads: Events = ()
    writes: Events = ()
    is_service: bool = True
    """It tells its life, answers PING, INFO and STATS, and keeps a lease under its own name."""
    registry: Registry = Registry.OWN_LEASE
    hears_everything: bool = False
    """All broadcasts. Requests are left out: they may hold prompts, and an ear there would hide that nobody is home."""
    asks_services: bool = False
    inboxes: tuple[str, ...] = ()
    """Names under which it may hear answers, besides its own."""


ROLES: Final[tuple[Role, ...]] = (
    Role(
        "agent",
        reads=(ProcessWanted, ProcessUnwanted),
        writes=(NodeChanged, ProcessAnswered, ProcessStarted, ProcessStopped, ServiceExited),
        registry=Registry.MAKE,
    ),
    Role(
        "coordinator",
        reads=(NodeChanged, ProcessStarted, ProcessStopped, ServiceStarted, ServiceExited),
        writes=(PlacementDecided, ProcessWanted, ProcessUnwanted),
        registry=Registry.MAKE,
    ),
    Role(
        "speculator",
        reads=(
            JobSubmitted,
            JobCancelled,
            EmbeddingRequested,
            DraftProposed,
            DrafterAttached,
            DrafterDetached,
            TokensAgreed,
            ReclaimWanted,
            ServiceStopped,
            PlacementDecided,
            NodeChanged,
            StageReady,
            StageGone,
        ),
        writes=(
            JobQueued,
            *_ANSWERS,
            EmbeddingMade,
            MemoryReclaimed,
            SessionOpened,
            SessionClosed,
            DraftGranted,
            DrafterChecked,
            *_MODELS,
            RingWired,
            FrameRefused,
        ),
        registry=Registry.MAKE,
    ),
    Role(
        "relay",
        reads=(JobSubmitted, JobCancelled),
        writes=(JobQueued, *_ANSWERS, ModelReady, ModelFailed, ModelUnloaded),
    ),
    Role(
        "stage",
        reads=(RingWired,),
        writes=(StageReady, StageGone, RingMeasured, FrameRefused, ModelLoading, ModelFailed),
    ),
    Role(
        "drafter",
        reads=(
            SessionOpened,
            SessionClosed,
            TokensAccepted,
            DraftGranted,
            DrafterChecked,
            JobFinished,
            JobFailed,
            ModelReady,
        ),
        writes=(DraftProposed, DrafterAttached, DrafterDetached, ModelFailed),
    ),
    Role(
        "racer",
        reads=(SessionOpened, SessionClosed, DraftProposed, TokensAccepted),
        writes=(TokensAgreed,),
        registry=Registry.READ,
    ),
    Role(
        "gate",
        reads=(JobSubmitted, JobCancelled, *_ANSWERS, ModelReady, *_SERVICES),
        writes=(JobQueued, JobSubmitted, JobCancelled, *_ANSWERS, AnswerJudged, AnswerAudited, ModeClosed),
        registry=Registry.READ,
    ),
    Role("swarm", reads=_MODELS, registry=Registry.READ),
    Role(
        "metrics",
        reads=(TraceRequested, HistoryRequested, MetricsRequested),
        writes=(TraceReported, HistoryReported, MetricsReported),
        registry=Registry.READ,
        hears_everything=True,
    ),
    Role(
        "edge",
        reads=(*_ANSWERS, *_MODELS, *_SERVICES, ChangeTold, *_POOLS),
        writes=(JobSubmitted, JobCancelled, EmbeddingRequested, TraceRequested, HistoryRequested, MetricsRequested),
        registry=Registry.MAKE,
    ),
    Role(
        "supervisor",
        reads=(
            ServiceStarted,
            ServiceStopped,
            ModelLoading,
            ModelReady,
            ModelFailed,
            DrafterAttached,
            ModelWanted,
            ModelUnwanted,
            SwapWanted,
        ),
        writes=(ServiceExited, ChangeAnswered, ChangeTold),
        registry=Registry.CLEAR,
    ),
    Role(
        "status",
        reads=(TokensAccepted, *_POOLS),
        is_service=False,
        registry=Registry.READ,
        asks_services=True,
        inboxes=("watcher",),
    ),
    Role("watcher", is_service=False, hears_everything=True),
)
ADMIN: Final = "admin"
"""May do whatever can be done with twd's own subjects; it is no row of the table."""
ROLE_NAMES: Final = (*(role.name for role in ROLES), ADMIN)


@dataclass(frozen=True)
class Permissions:
    """Subjects that a user may publish on and listen on; a subscription may name its queue group after a blank."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_heard: tuple[str, ...]
    """Not even by a wildcard."""
    answers: bool
    """May answer each request that it was given, once."""


def permissions_of(role: Role) -> Permissions:
    """What a role's table row means in subjects."""
    return Permissions(
        publish=_unique(_publishes(role)),
        subscribe=_unique(_subscribes(role)),
        never_heard=_requests_but(role.reads) if role.hears_everything else (),
        answers=role.is_service,
    )


def admin_permissions() -> Permissions:
    """The same for the role that may do everything but look into the broker itself."""
    return Permissions(
        publish=(EVERYTHING, "$SRV.>", "$JS.API.>", "$KV.>"),
        subscribe=(EVERYTHING, "$SRV.>", "$KV.>", f"{INBOX_PREFIX}.>"),
        never_heard=_requests_but(()),
        answers=True,
    )


def _publishes(role: Role) -> Iterator[str]:
    for event in (*role.writes, *(LIFE if role.is_service else ())):
        if ROUTE_OF[event].delivery is not Delivery.REPLY:
            yield ROUTE_OF[event].pattern
    if role.is_service:
        yield f"$KV.{REGISTRY}.{role.name}.>"
    if role.registry >= Registry.CLEAR:
        yield f"$KV.{REGISTRY}.>"
    if role.registry >= Registry.MAKE:
        yield f"$JS.API.STREAM.CREATE.KV_{REGISTRY}"
        yield f"$JS.API.STREAM.UPDATE.KV_{REGISTRY}"
    if role.registry >= Registry.READ:
        yield f"$JS.API.STREAM.INFO.KV_{REGISTRY}"
        yield f"$JS.API.DIRECT.GET.KV_{REGISTRY}.>"
    if role.asks_services:
        yield "$SRV.>"


def _subscribes(role: Role) -> Iterator[str]:
    for name in (role.name, *role.inboxes):
        yield f"{INBOX_PREFIX}.{name}.>"
    if role.hears_everything:
        yield EVERYTHING
    for event in role.reads:
        route = ROUTE_OF[event]
        yield f"{route.pattern} {route.group}" if route.group else route.pattern
    if role.is_service:
        yield "$SRV.*"
        yield f"$SRV.*.twd-{role.name}"
        yield f"$SRV.*.twd-{role.name}.*"


def _requests_but(read: Events) -> tuple[str, ...]:
    requests = [route for route in ROUTES if route.delivery is Delivery.REQUEST]
    return tuple(route.pattern for route in requests if route.event not in read)


def _unique(subjects: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects))


def render() -> str:
    """The whole table in the language of nats-server's configuration."""
    blocks = [_block(role.name, permissions_of(role)) for role in ROLES]
    head = "# Generated by `python -m twd.bus.permissions` from the table there; do not edit.\n"
    return "\n".join([head, *blocks, _block(ADMIN, admin_permissions())])


def _block(name: str, allowed: Permissions) -> str:
    publish = f"publish: {_list(allowed.publish)}" if allowed.publish else 'publish: { deny: [">"] }'
    subscribe = _list(allowed.subscribe)
    if allowed.never_heard:
        subscribe = f"{{ allow: {subscribe}, deny: {_list(allowed.never_heard)} }}"
    lines = [publish, f"subscribe: {subscribe}"]
    if allowed.answers:
        lines.append('allow_responses: { max: 1, expires: "2m" }')
    return "\n".join([f"{name}_permissions: {{", *(f"  {line}" for line in lines), "}", ""])


def _list(subjects: tuple[str, ...]) -> str:
    return "\n".join(["[", *(f'    "{subject}"' for subject in subjects), "  ]"])


if __name__ == "__main__":
    sys.stdout.write(render())
