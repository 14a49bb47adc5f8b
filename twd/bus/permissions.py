"""Who may say and hear what: one table of roles, and from it the rights of one key: a role on a machine, for models.

A subject begins with the name of who publishes on it (`twd/wire/routes.py`), so a key's rights name its own role and
machine there, and its models where the subject has one. `deploy/nats/make_keys.py` writes them for a broker.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from twd.bus.base import INBOX_PREFIX
from twd.bus.followed_leases import CLAIMS, ROLL_CALL
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
from twd.wire.names import subject_token
from twd.wire.node import NodeChanged, ProcessAnswered, ProcessStarted, ProcessStopped, ProcessUnwanted, ProcessWanted
from twd.wire.placement import PlacementDecided
from twd.wire.ring import FrameRefused, RingMeasured, RingWired, StageGone, StageReady
from twd.wire.routes import ANYBODY, EVERYTHING, ROUTE_OF, ROUTES, Delivery, Route
from twd.wire.service import (
    MessageDropped,
    MessageRejected,
    ServiceExited,
    ServiceFaulted,
    ServiceStarted,
    ServiceStopped,
)
from twd.wire.swarm import (
    PeerBanned,
    PullAnswered,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullUnwanted,
    PullWanted,
    SeedChanged,
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


class RegistryAccess(enum.IntEnum):
    """What a role may do in the registry of leases; each includes what stands before it. No role may wipe it."""

    OWN_LEASE = 0
    READ = 1
    """Hear the leases of all, and call the roll."""
    CLEAR = 2
    """Take away the leases of others on its own machine, whose processes it saw end."""


@dataclass(frozen=True)
class BusRole:
    """One kind of user: what it reads and writes."""

    name: str
    reads: Events = ()
    writes: Events = ()
    is_service: bool = True
    """It tells its life, answers PING, INFO and STATS, and keeps a lease under its own name."""
    registry: RegistryAccess = RegistryAccess.OWN_LEASE
    hears_everything: bool = False
    """All broadcasts. Requests are left out: they may hold prompts, and an ear there would hide that nobody is home."""
    asks_services: bool = False
    inboxes: tuple[str, ...] = ()
    """Names under which it may hear answers, besides its own."""
    of_models: bool = False
    """A key of this role may be for some models only: it hears and says nothing of the others."""
    keys: tuple[str, ...] = ()
    """What it may tell in the registry besides its own lease, as patterns; `{machine}` stands for its machine."""
    claims: tuple[str, ...] = ()
    """What it may claim there. A name has no wildcard, so that one key can store no more than these."""


ROLES: Final[tuple[BusRole, ...]] = (
    BusRole(
        "agent",
        reads=(ProcessWanted, ProcessUnwanted),
        writes=(NodeChanged, ProcessAnswered, ProcessStarted, ProcessStopped, ServiceExited),
        registry=RegistryAccess.READ,
        claims=("agent.{machine}.claim",),
    ),
    BusRole(
        "coordinator",
        reads=(NodeChanged, ProcessStarted, ProcessStopped, ServiceStarted, ServiceExited),
        writes=(PlacementDecided, ProcessWanted, ProcessUnwanted),
        registry=RegistryAccess.READ,
        keys=("coordinator.placement.>", "coordinator.guest.>"),
        claims=("coordinator.active.claim",),
    ),
    BusRole(
        "speculator",
        reads=(
            JobSubmitted,
            JobCancelled,
            EmbeddingRequested,
            DraftProposed,
            DrafterAttached,
            DrafterDetached,
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
        registry=RegistryAccess.READ,
        of_models=True,
    ),
    BusRole(
        "relay",
        reads=(JobSubmitted, JobCancelled),
        writes=(JobQueued, *_ANSWERS, ModelReady, ModelFailed, ModelUnloaded),
        of_models=True,
    ),
    BusRole(
        "stage",
        reads=(RingWired,),
        writes=(StageReady, StageGone, RingMeasured, FrameRefused, ModelLoading, ModelFailed),
    ),
    BusRole(
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
        of_models=True,
    ),
    BusRole(
        "racer",
        reads=(JobSubmitted, JobCancelled, *_ANSWERS, *_DRAFTING),
        writes=(JobQueued, JobSubmitted, JobCancelled, *_ANSWERS, SessionOpened, SessionClosed, DraftGranted),
        registry=RegistryAccess.READ,
    ),
    BusRole(
        "gate",
        reads=(JobSubmitted, JobCancelled, *_ANSWERS),
        writes=(JobQueued, JobSubmitted, JobCancelled, *_ANSWERS),
        registry=RegistryAccess.READ,
    ),
    BusRole(
        "swarm",
        reads=(PullWanted, PullUnwanted, NodeChanged),
        writes=(PullAnswered, PullProgressed, PullFinished, PullFailed, SeedChanged, PeerBanned),
        registry=RegistryAccess.READ,
    ),
    BusRole(
        "metrics",
        reads=(TraceRequested, HistoryRequested, MetricsRequested),
        writes=(TraceReported, HistoryReported, MetricsReported),
        registry=RegistryAccess.READ,
        hears_everything=True,
    ),
    BusRole(
        "edge",
        reads=(*_ANSWERS, *_MODELS, *_SERVICES, ChangeTold, *_POOLS),
        writes=(JobSubmitted, JobCancelled, EmbeddingRequested, TraceRequested, HistoryRequested, MetricsRequested),
        registry=RegistryAccess.READ,
    ),
    BusRole(
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
        registry=RegistryAccess.CLEAR,
    ),
    BusRole(
        "status",
        reads=(TokensAccepted, *_POOLS),
        is_service=False,
        registry=RegistryAccess.READ,
        asks_services=True,
        inboxes=("watcher",),
    ),
    BusRole("watcher", is_service=False, hears_everything=True),
)
ADMIN: Final = "admin"
"""May do whatever can be done with twd's own subjects, under any name; it is no row of the table."""
ROLE_OF: Final = {role.name: role for role in ROLES}
ROLE_NAMES: Final = (*(role.name for role in ROLES), ADMIN)


ANY_MODEL: Final = "*"
_SHARED: Final = (Delivery.REQUEST, Delivery.DIRECT)
"""What is not for all: it may hold prompts and secrets."""


@dataclass(frozen=True)
class Permissions:
    """Subjects that a user may publish on and listen on; a subscription may name its queue group after a blank."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_heard: tuple[str, ...] = ()
    """Not even by a wildcard."""


@dataclass(frozen=True)
class Credential:
    """What one key is for: a role on a machine, and for which models."""

    role: str
    machine: str
    models: tuple[str, ...] = (ANY_MODEL,)

    @property
    def origin(self) -> str:
        """How the subjects of what it publishes begin, behind the event's tag."""
        return f"{self.role}.{subject_token(self.machine)}.*"


def permissions_of(credential: Credential) -> Permissions:
    """What a key may do: its role's row, with its machine and models put in."""
    if credential.role == ADMIN:
        return _admin()
    role = ROLE_OF[credential.role]
    return Permissions(
        publish=_unique(_publishes(role, credential)),
        subscribe=_unique(_subscribes(role, credential)),
        never_heard=_not_for_all(role.reads) if role.hears_everything else (),
    )


def _admin() -> Permissions:
    return Permissions(
        publish=(EVERYTHING, "$SRV.>", "$JS.API.>", "$KV.>", ROLL_CALL, f"{INBOX_PREFIX}.>"),
        subscribe=(EVERYTHING, "$SRV.>", "$KV.>", ROLL_CALL, f"{INBOX_PREFIX}.{ADMIN}.>"),
        never_heard=_not_for_all(()),
    )


def _publishes(role: BusRole, credential: Credential) -> Iterator[str]:
    for event in (*role.writes, *(LIFE if role.is_service else ())):
        if ROUTE_OF[event].delivery is not Delivery.REPLY:
            yield from _patterns(ROUTE_OF[event], role, credential, origin=credential.origin)
    for asker in _askers(role):
        yield f"{INBOX_PREFIX}.{asker}.>"
    machine = subject_token(credential.machine)
    if role.is_service:
        yield f"$KV.{REGISTRY}.{role.name}.{machine}.>"
    for key in (*role.keys, *role.claims):
        yield f"$KV.{REGISTRY}.{key.format(machine=machine)}"
    for key in role.claims:
        yield f"$KV.{REGISTRY}{CLAIMS}.{key.format(machine=machine)}"
    if role.registry >= RegistryAccess.READ:
        yield ROLL_CALL
    if role.registry >= RegistryAccess.CLEAR:
        yield f"$KV.{REGISTRY}.*.{machine}.>"
    if role.asks_services:
        yield "$SRV.>"


def _askers(role: BusRole) -> Iterator[str]:
    """Whose requests this role answers: it may publish to their inboxes, of which nobody can guess a name."""
    if not role.is_service:
        return
    yield ADMIN
    for other in ROLES:
        asks = any(ROUTE_OF[event].delivery is Delivery.REQUEST and event in role.reads for event in other.writes)
        if asks or other.asks_services:
            yield other.name


def _subscribes(role: BusRole, credential: Credential) -> Iterator[str]:
    machine = subject_token(credential.machine)
    for name in (role.name, *role.inboxes):
        yield f"{INBOX_PREFIX}.{name}.{machine}.>"
    if role.hears_everything:
        yield EVERYTHING
    for event in role.reads:
        route = ROUTE_OF[event]
        to = credential.origin if route.to else ANYBODY
        for pattern in _patterns(route, role, credential, to=to):
            yield f"{pattern} {route.group}" if route.group else pattern
    if role.is_service:
        yield ROLL_CALL
        yield f"$KV.{REGISTRY}.{role.name}.{machine}.>"
        yield "$SRV.*"
        yield f"$SRV.*.twd-{role.name}"
        yield f"$SRV.*.twd-{role.name}.*"
    if role.registry >= RegistryAccess.READ:
        yield f"$KV.{REGISTRY}.>"


def _patterns(
    route: Route, role: BusRole, credential: Credential, origin: str = ANYBODY, to: str = ANYBODY
) -> Iterator[str]:
    """The subjects of one event that concern a key: of its models, and of requests those to its machine."""
    keys = {}
    if "node" in route.keys and origin == ANYBODY:
        keys["node"] = credential.machine
    by_model = role.of_models and "model" in route.keys
    for model in credential.models if by_model else (ANY_MODEL,):
        of_model = {"model": model} if model != ANY_MODEL else {}
        yield route.pattern_for(origin, to, **keys, **of_model)


def _not_for_all(read: Events) -> tuple[str, ...]:
    shared = [route for route in ROUTES if route.delivery in _SHARED]
    return tuple(f"{route.tag}.>" for route in shared if route.event not in read)


def _unique(subjects: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects))


def render_user(public_key: str, credential: Credential) -> str:
    """One user in the language of nats-server's configuration."""
    allowed = permissions_of(credential)
    publish = _list(allowed.publish) if allowed.publish else '{ deny: [">"] }'
    subscribe = _list(allowed.subscribe)
    if allowed.never_heard:
        subscribe = f"{{ allow: {subscribe}, deny: {_list(allowed.never_heard)} }}"
    models = "" if credential.models == (ANY_MODEL,) else f" for {', '.join(credential.models)}"
    return (
        f"# {credential.role} on {credential.machine}{models}\n"
        f"{{ nkey: {public_key}, permissions: {{\n  publish: {publish}\n  subscribe: {subscribe}\n}} }}\n"
    )


def _list(subjects: tuple[str, ...]) -> str:
    return "\n".join(["[", *(f'    "{subject}"' for subject in subjects), "  ]"])
