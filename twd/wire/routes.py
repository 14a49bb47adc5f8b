"""The one table: every event, where it travels, how it is delivered, what gives way when a queue is full."""

import enum
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

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
from twd.wire.ring import FrameRefused, RingMeasured, RingWired, StageAnswered, StageGone, StageReady
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


class Delivery(enum.StrEnum):
    """Who gets a message."""

    BROADCAST = "broadcast"
    REQUEST = "request"
    REPLY = "reply"


class WhenFull(enum.StrEnum):
    """What a reader's full queue does; whatever gives way is counted and told as MessageDropped."""

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Route:
    """How one event type travels. `key` names the field that ends its subject."""

    event: type[Event]
    delivery: Delivery
    when_full: WhenFull
    key: str = ""
    group: str = ""

    @cached_property
    def tag(self) -> str:
        """The type's name on the wire, which is also the start of its subject."""
        return str(self.event.__struct_config__.tag)

    @property
    def pattern(self) -> str:
        """The subject that catches every message of this type."""
        return f"{self.tag}.*" if self.key else self.tag

    def subject(self, event: Event) -> str:
        """The subject of one message."""
        if not self.key:
            return self.tag
        return f"{self.tag}.{subject_token(getattr(event, self.key))}"


_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@lru_cache(4096)
def subject_token(text: str) -> str:
    """Make one subject token of any id: what NATS gives a meaning to is written as `=hex`."""
    return _UNSAFE.sub(lambda m: "".join(f"={b:02x}" for b in m.group().encode()), text) or "="


_B, _R, _A = Delivery.BROADCAST, Delivery.REQUEST, Delivery.REPLY
_OLD, _NEW, _NO = WhenFull.DROP_OLDEST, WhenFull.DROP_NEWEST, WhenFull.REFUSE

ROUTES: tuple[Route, ...] = (
    Route(ServiceStarted, _B, _OLD),
    Route(ServiceStopped, _B, _OLD),
    Route(ServiceFaulted, _B, _OLD),
    Route(ServiceExited, _B, _OLD),
    Route(MessageDropped, _B, _OLD),
    Route(MessageRejected, _B, _OLD),
    Route(ModelLoading, _B, _OLD),
    Route(ModelReady, _B, _OLD),
    Route(ModelMeasured, _B, _OLD),
    Route(ModelFailed, _B, _OLD),
    Route(ModelUnloaded, _B, _OLD),
    Route(ModelWanted, _R, _NO, key="node", group="supervisors"),
    Route(ModelUnwanted, _R, _NO, key="node", group="supervisors"),
    Route(SwapWanted, _R, _NO, key="node", group="supervisors"),
    Route(ChangeAnswered, _A, _NO),
    Route(ChangeTold, _B, _OLD),
    Route(ReclaimWanted, _B, _OLD),
    Route(MemoryReclaimed, _B, _OLD),
    Route(NodeChanged, _B, _OLD, key="node"),
    Route(ProcessWanted, _R, _NO, key="node", group="agents"),
    Route(ProcessUnwanted, _R, _NO, key="node", group="agents"),
    Route(ProcessAnswered, _A, _NO),
    Route(ProcessStarted, _B, _OLD),
    Route(ProcessStopped, _B, _OLD),
    Route(PlacementDecided, _B, _OLD),
    Route(StageReady, _B, _OLD),
    Route(StageGone, _B, _OLD),
    Route(RingWired, _R, _NO, key="stage", group="stages"),
    Route(StageAnswered, _A, _NO),
    Route(RingMeasured, _B, _OLD),
    Route(FrameRefused, _B, _OLD),
    Route(JobSubmitted, _R, _NO, key="model", group="speculators"),
    Route(JobQueued, _A, _NO),
    Route(JobStarted, _B, _NEW, key="job"),
    Route(TokensAccepted, _B, _NEW, key="job"),
    Route(JobCancelled, _B, _NEW, key="job"),
    Route(JobFinished, _B, _NEW, key="job"),
    Route(JobFailed, _B, _NEW, key="job"),
    Route(EmbeddingRequested, _R, _NO, key="model", group="speculators"),
    Route(EmbeddingMade, _A, _NO),
    Route(SessionOpened, _B, _NEW, key="session"),
    Route(SessionClosed, _B, _NEW, key="session"),
    Route(DraftProposed, _B, _OLD, key="session"),
    Route(DraftGranted, _B, _OLD, key="session"),
    Route(DrafterAttached, _B, _OLD),
    Route(DrafterChecked, _B, _OLD),
    Route(DrafterDetached, _B, _OLD),
    Route(TokensAgreed, _B, _OLD, key="session"),
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
    parts = subject.split(".", 4)
    return ROUTE_OF_TAG.get(".".join(parts[:4]))
