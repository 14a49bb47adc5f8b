"""The events that speculators read and write."""

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
from twd.wire.job import (
    JobCancelled,
    JobFailed,
    JobFinished,
    JobQueued,
    JobStarted,
    JobSubmitted,
    TokensAccepted,
)
from twd.wire.judging import ModeClosed, TokensAgreed
from twd.wire.life import MemoryReclaimed, ReclaimWanted
from twd.wire.model import ModelFailed, ModelLoading, ModelMeasured, ModelReady, ModelUnloaded
from twd.wire.node import NodeChanged
from twd.wire.placement import PlacementDecided
from twd.wire.ring import FrameRefused, RingWired, StageGone, StageReady
from twd.wire.service import ServiceStopped

Events = tuple[type[Event], ...]

WORK: Final[Events] = (JobSubmitted, EmbeddingRequested)
"""Heard once the model is loaded."""
PLACES: Final[Events] = (StageReady, StageGone, PlacementDecided, NodeChanged)
"""Heard only if the source of the target asks for them."""
READS_LATER: Final[Events] = (*WORK, *PLACES)
READS: Final[Events] = (
    JobCancelled,
    DraftProposed,
    DrafterAttached,
    DrafterDetached,
    TokensAgreed,
    ReclaimWanted,
    ServiceStopped,
    *READS_LATER,
)
WRITES: Final[Events] = (
    JobQueued,
    JobStarted,
    TokensAccepted,
    JobFinished,
    JobFailed,
    EmbeddingMade,
    MemoryReclaimed,
    SessionOpened,
    SessionClosed,
    DraftGranted,
    DrafterChecked,
    ModelLoading,
    ModelReady,
    ModelMeasured,
    ModelFailed,
    ModelUnloaded,
    RingWired,
    FrameRefused,
    ModeClosed,
)
