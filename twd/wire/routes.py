"""The one table: every event, where it travels, how it is delivered, what gives way when a queue is full."""

import enum
from dataclasses import dataclass
from functools import cached_property, lru_cache
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
from twd.wire.names import machine_of, origin_of, subject_token
from twd.wire.node import (
    JoinRequested,
    LeaveRequested,
    MachineRemoved,
    MembershipAnswered,
    NodeChanged,
    ProcessAnswered,
    ProcessStarted,
    ProcessStopped,
    ProcessUnwanted,
    ProcessWanted,
)
from twd.wire.placement import PlacementDecided
from twd.wire.ring import FrameRefused, RingMeasured, RingWired, StageAnswered, StageGone, StageReady
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


class Delivery(enum.StrEnum):
    """Who gets a message."""

    BROADCAST = "broadcast"
    DIRECT = "direct"
    """One addressee by name; nobody else may hear it."""
    REQUEST = "request"
    REPLY = "reply"


class WhenFull(enum.StrEnum):
    """What a reader's full queue does; whatever gives way is counted and told as MessageDropped."""

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    REFUSE = "refuse"


ANYBODY: Final = "*.*.*"
"""The part of a pattern that stands for any publisher, or for any addressee."""
_TAG_TOKENS: Final = 4
_ORIGIN_END: Final = _TAG_TOKENS + 3


@dataclass(frozen=True)
class Route:
    """How one event type travels.

    Its subject is `<tag>.<role>.<machine>.<copy>`, the publisher's name as three tokens, then one token for each field
    in `keys`, then, where the event is for one service alone, the three tokens of the name in its field `to`. A broker
    with rights by role lets nobody publish under another's role or machine.
    """

    event: type[Event]
    delivery: Delivery
    when_full: WhenFull
    keys: tuple[str, ...] = ()
    group: str = ""
    to: str = ""
    own: tuple[str, ...] = ()
    """Fields in which a publisher names itself or its machine; they must agree with the subject."""

    @cached_property
    def tag(self) -> str:
        """The type's name on the wire, which is also the start of its subject."""
        return str(self.event.__struct_config__.tag)

    @cached_property
    def pattern(self) -> str:
        """The subject that catches every message of this type."""
        return self.pattern_for()

    def pattern_for(self, origin: str = ANYBODY, to: str = ANYBODY, **keys: str) -> str:
        """The subject of messages with these keys, from `origin`, for `to`; what is not given may be anything."""
        parts = [self.tag, origin, *(subject_token(keys[key]) if key in keys else "*" for key in self.keys)]
        return ".".join([*parts, to] if self.to else parts)

    def subject(self, event: Event) -> str:
        """The subject of one message."""
        keys = tuple([getattr(event, key) for key in self.keys])
        return _joined(self.tag, event.source, keys, getattr(event, self.to) if self.to else None)

    def disagreement(self, subject: str, event: Event) -> str:
        """What an event says of its publisher or its keys that its subject does not; empty when all agrees."""
        if subject != self.subject(event):
            return f"its subject does not name its source ({event.source or 'none'}) and what it is about"
        return self.misnamed(event)

    def misnamed(self, event: Event) -> str:
        """Where an event says of itself that it is from another instance or machine than its source."""
        for name in self.own:
            told = getattr(event, name)
            if told not in (event.source, machine_of(event.source)):
                return f"its {name} is {told}, but it is from {event.source}"
        return ""


@lru_cache(4096)  # a job's tokens all go to the same subject
def _joined(tag: str, source: str, keys: tuple[str, ...], to: str | None) -> str:
    parts = [tag, origin_of(source), *map(subject_token, keys)]
    return ".".join(parts if to is None else [*parts, origin_of(to)])


def origin_in(subject: str) -> tuple[str, str]:
    """Role and machine of who published on this subject, as its tokens say them; empty where it is no event's."""
    tokens = subject.split(".", _ORIGIN_END)
    return (tokens[_TAG_TOKENS], tokens[_TAG_TOKENS + 1]) if len(tokens) >= _ORIGIN_END else ("", "")


_B, _D, _R, _A = Delivery.BROADCAST, Delivery.DIRECT, Delivery.REQUEST, Delivery.REPLY
_OLD, _NEW, _NO = WhenFull.DROP_OLDEST, WhenFull.DROP_NEWEST, WhenFull.REFUSE

ROUTES: tuple[Route, ...] = (
    Route(ServiceStarted, _B, _OLD, own=("node",)),
    Route(ServiceStopped, _B, _OLD, own=("node",)),
    Route(ServiceFaulted, _B, _OLD, own=("node",)),
    Route(ServiceExited, _B, _OLD, own=("node",)),
    Route(MessageDropped, _B, _OLD),
    Route(MessageRejected, _B, _OLD),
    Route(ModelLoading, _B, _OLD, own=("node",)),
    Route(ModelReady, _B, _OLD, own=("node",)),
    Route(ModelMeasured, _B, _OLD, own=("node",)),
    Route(ModelFailed, _B, _OLD, own=("node",)),
    Route(ModelUnloaded, _B, _OLD, own=("node",)),
    Route(ModelWanted, _R, _NO, keys=("node",), group="supervisors"),
    Route(ModelUnwanted, _R, _NO, keys=("node",), group="supervisors"),
    Route(SwapWanted, _R, _NO, keys=("node",), group="supervisors"),
    Route(ChangeAnswered, _A, _NO, own=("node",)),
    Route(ChangeTold, _B, _OLD, own=("node",)),
    Route(ReclaimWanted, _B, _OLD),
    Route(MemoryReclaimed, _B, _OLD, own=("node",)),
    Route(NodeChanged, _B, _OLD, own=("node",)),
    Route(JoinRequested, _R, _NO, group="membership"),
    Route(LeaveRequested, _R, _NO, group="membership", own=("node",)),
    Route(MembershipAnswered, _A, _NO),
    Route(MachineRemoved, _B, _OLD),
    Route(ProcessWanted, _R, _NO, keys=("node",), group="agents"),
    Route(ProcessUnwanted, _R, _NO, keys=("node",), group="agents"),
    Route(ProcessAnswered, _A, _NO, own=("node",)),
    Route(ProcessStarted, _B, _OLD, own=("node",)),
    Route(ProcessStopped, _B, _OLD, own=("node",)),
    Route(PlacementDecided, _B, _OLD, own=("coordinator",)),
    Route(StageReady, _B, _OLD, own=("stage", "node")),
    Route(StageGone, _B, _OLD, own=("stage", "node")),
    Route(RingWired, _R, _NO, group="stages", to="stage", own=("home",)),
    Route(StageAnswered, _A, _NO, own=("stage",)),
    Route(RingMeasured, _B, _OLD, own=("stage", "node")),
    Route(FrameRefused, _B, _OLD, own=("stage", "node")),
    Route(JobSubmitted, _R, _NO, keys=("model",), group="speculators", own=("owner",)),
    Route(JobQueued, _A, _NO, own=("speculator",)),
    Route(JobStarted, _B, _NEW, keys=("model", "job")),
    Route(TokensAccepted, _B, _NEW, keys=("model", "job")),
    Route(JobCancelled, _B, _NEW, keys=("job",)),
    Route(JobFinished, _B, _NEW, keys=("model", "job")),
    Route(JobFailed, _B, _NEW, keys=("model", "job")),
    Route(EmbeddingRequested, _R, _NO, keys=("model",), group="speculators"),
    Route(EmbeddingMade, _A, _NO),
    Route(SessionOpened, _D, _NEW, keys=("model",), to="drafter", own=("speculator", "node")),
    Route(SessionClosed, _B, _NEW, keys=("model", "session")),
    Route(DraftProposed, _B, _OLD, keys=("model", "session"), own=("drafter",)),
    Route(DraftGranted, _B, _OLD, keys=("model", "session")),
    Route(DrafterAttached, _B, _OLD, own=("drafter", "node")),
    Route(DrafterChecked, _B, _OLD),
    Route(DrafterDetached, _B, _OLD, own=("drafter",)),
    Route(PullWanted, _R, _NO, keys=("node",), group="swarms"),
    Route(PullUnwanted, _R, _NO, keys=("node",), group="swarms"),
    Route(PullAnswered, _A, _NO, own=("node",)),
    Route(PullProgressed, _B, _OLD, own=("node",)),
    Route(PullFinished, _B, _OLD, own=("node",)),
    Route(PullFailed, _B, _OLD, own=("node",)),
    Route(SeedChanged, _B, _OLD, own=("node",)),
    Route(PeerBanned, _B, _OLD, own=("node",)),
    Route(TokensAgreed, _B, _OLD, keys=("session",), own=("racer",)),
    Route(AnswerJudged, _B, _OLD),
    Route(AnswerAudited, _B, _OLD),
    Route(ModeClosed, _B, _OLD),
    Route(TraceRequested, _R, _NO, group="metrics"),
    Route(TraceReported, _A, _NO),
    Route(HistoryRequested, _R, _NO, group="metrics"),
    Route(HistoryReported, _A, _NO),
    Route(MetricsRequested, _R, _NO, group="metrics"),
    Route(MetricsReported, _A, _NO),
)

ROUTE_OF: dict[type[Event], Route] = {route.event: route for route in ROUTES}
ROUTE_OF_TAG: dict[str, Route] = {route.tag: route for route in ROUTES}
BROADCASTS = tuple(route for route in ROUTES if route.delivery is Delivery.BROADCAST)
"""What anybody may listen to. An ear on a request's subject would look like somebody who answers it."""
EVERYTHING = "twd.v1.>"


def subject_of(event: Event) -> str:
    """The subject on which this event is published."""
    return ROUTE_OF[type(event)].subject(event)


def route_of_subject(subject: str) -> Route | None:
    """The route whose messages travel on this subject, if there is one."""
    parts = subject.split(".", _TAG_TOKENS)
    return ROUTE_OF_TAG.get(".".join(parts[:_TAG_TOKENS]))
