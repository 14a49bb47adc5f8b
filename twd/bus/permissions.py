"""Who may publish and subscribe to what: one table of roles.

A key is for a role on a machine, and for some models or all; `key_permissions.py` tells what it may do by this table.
"""

import enum
from dataclasses import dataclass
from typing import Final

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
            DrafterChecked,
            DrafterDetached,
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
