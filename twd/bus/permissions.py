"""Who may publish and subscribe to what: one table of roles, from which the permissions of each key follow.

A key is for a role on a machine, and for some models or all. A subject contains the name of its publisher
(`twd/wire/routes.py`), so the permissions of a key contain its own role and machine, and its models where the subject
has one. `deploy/nats/make_keys.py` writes them for a broker.
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
from twd.wire.judging import RACERS, AnswerAudited, AnswerJudged, ModeClosed, TokensAgreed
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
from twd.wire.node import (
    JoinRequested,
    LeaveRequested,
    MachineRemoved,
    NodeChanged,
    ProcessAnswered,
    ProcessStarted,
    ProcessStopped,
    ProcessUnwanted,
    ProcessWanted,
)
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
    HUB_READERS,
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
"""Events that every service may publish about itself."""
_SERVICES: Final[Events] = (ServiceStarted, ServiceStopped, ServiceFaulted, ServiceExited)
_MODELS: Final[Events] = (ModelLoading, ModelReady, ModelMeasured, ModelFailed, ModelUnloaded)
_ANSWERS: Final[Events] = (JobStarted, TokensAccepted, JobFinished, JobFailed)
_POOLS: Final[Events] = (RingMeasured, FrameRefused)
_PULLS: Final[Events] = (PullProgressed, PullFinished, PullFailed)
_DRAFTING: Final[Events] = (SessionOpened, SessionClosed, DraftProposed, DrafterAttached, DrafterDetached)


class RegistryAccess(enum.IntEnum):
    """What a role may do in the lease registry; each value includes those before it. No role may wipe it."""

    OWN_LEASE = 0
    READ = 1
    """Read all leases, and ask all holders to publish them again (roll call)."""
    CLEAR = 2
    """Delete leases of other services on its own machine, after it saw their processes end."""


@dataclass(frozen=True)
class BusRole:
    """One role: what it may read and write."""

    name: str
    reads: Events = ()
    writes: Events = ()
    is_service: bool = True
    """It publishes the LIFE events, answers PING, INFO and STATS, and keeps a lease under its own name."""
    registry: RegistryAccess = RegistryAccess.OWN_LEASE
    hears_everything: bool = False
    """It hears all broadcasts, but no requests:

    they may hold prompts, and a listener would hide that no service answers.
    """
    asks_services: bool = False
    inboxes: tuple[str, ...] = ()
    """Other names under which it may receive answers."""
    of_models: bool = False
    """A key of this role may be limited to some models: then it reads and writes only what concerns them."""
    keys: tuple[str, ...] = ()
    """Patterns of keys that it may write in the registry besides its own lease; `{machine}` is its machine."""
    addressed: str = ""
    """A recipient name to which all services of this role listen, besides their own."""
    claims: tuple[str, ...] = ()
    """The claims that it may hold. They have no wildcard, so a key can store only these."""


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
        reads=(NodeChanged, ProcessStarted, ProcessStopped, ServiceStarted, ServiceExited, PullFinished, PullFailed),
        writes=(PlacementDecided, ProcessWanted, ProcessUnwanted, PullWanted, PullUnwanted),
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
            ModeClosed,
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
        addressed=RACERS,
        reads=(SessionOpened, SessionClosed, DraftProposed, TokensAccepted),
        writes=(TokensAgreed,),
        registry=RegistryAccess.READ,
    ),
    BusRole(
        "gate",
        reads=(JobSubmitted, JobCancelled, *_ANSWERS, ModelReady, *_SERVICES),
        writes=(JobQueued, JobSubmitted, JobCancelled, *_ANSWERS, AnswerJudged, AnswerAudited, ModeClosed),
        registry=RegistryAccess.READ,
    ),
    BusRole(
        "swarm",
        reads=(PullWanted, PullUnwanted, NodeChanged),
        writes=(PullAnswered, PullProgressed, PullFinished, PullFailed, SeedChanged, PeerBanned),
        claims=tuple(f"{key}.claim" for key in HUB_READERS),
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
        reads=(*_ANSWERS, *_MODELS, *_SERVICES, ChangeTold, *_POOLS, *_PULLS),
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
            MachineRemoved,
        ),
        writes=(ServiceExited, ChangeAnswered, ChangeTold),
        registry=RegistryAccess.CLEAR,
    ),
    BusRole(
        "status",
        reads=(TokensAccepted, *_POOLS, *_PULLS),
        is_service=False,
        registry=RegistryAccess.READ,
        asks_services=True,
        inboxes=("watcher",),
    ),
    BusRole("watcher", is_service=False, hears_everything=True),
    BusRole("membership", reads=(JoinRequested, LeaveRequested), writes=(MachineRemoved,)),
    BusRole("joiner", writes=(JoinRequested,), is_service=False),
    BusRole("member", writes=(LeaveRequested,), is_service=False),
)
ADMIN: Final = "admin"
"""May do everything with twd's own subjects, under any name; it is not in the table."""
ROLE_OF: Final = {role.name: role for role in ROLES}
ROLE_NAMES: Final = (*(role.name for role in ROLES), ADMIN)


ANY_MODEL: Final = "*"
_SHARED: Final = (Delivery.REQUEST, Delivery.DIRECT)
"""Deliveries that not everybody may hear: they may hold prompts and secrets."""


@dataclass(frozen=True)
class Permissions:
    """Subjects on which a user may publish and subscribe; a subscription may name its queue group after a space."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_heard: tuple[str, ...] = ()
    """Denied, even if a wildcard includes them."""


@dataclass(frozen=True)
class Credential:
    """What one key is for: a role on a machine, for some models or all."""

    role: str
    machine: str
    models: tuple[str, ...] = (ANY_MODEL,)

    @property
    def origin(self) -> str:
        """The beginning of the subjects of its events, after the event's tag."""
        return f"{self.role}.{subject_token(self.machine)}.*"


def permissions_of(credential: Credential) -> Permissions:
    """Return the permissions of a key: those of its role, with its machine and models filled in."""
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
    """Return the roles whose requests this role answers; it may publish to their inboxes, whose names are random."""
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
        for to in filter(None, (credential.origin, role.addressed)) if route.to else (ANYBODY,):
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
    """Return the subjects of one event that concern a key: its models, and its machine for requests."""
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
    """Return one user in the syntax of nats-server's configuration."""
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
