"""Who a speculator is and what it may hold."""

import hashlib
from dataclasses import dataclass

from twd.decoding.window import Target
from twd.drafting.ngram import MIN_MATCH
from twd.drafting.undo_cost import UndoCost
from twd.settings.model import ModelConfig, Settings
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DeviceKind
from twd.wire.model import ModelFacts, VocabFingerprint

_WINDOW_MAX = 32


def fingerprint_of(facts: ModelFacts, settings: str) -> str:
    """`system_fingerprint` of answers: the same as long as all of this is, which the status shows beside it."""
    parts = (facts.file, facts.quantization, facts.vocab.hash, settings)
    return f"fp_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True)
class SpeculatorIdentity:
    """Whose decisions these are."""

    model: ModelId
    speculator: InstanceId
    node: NodeId
    vocab: VocabFingerprint
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class SpeculatorLimits:
    """Bounds of one speculator; every queue has one."""

    slots: int
    ctx_size: int
    max_queue: int = 64
    max_window: int = 32
    ahead: int = 0
    """How far guesses may run ahead of the text, where several windows fly; 0: as far as one window needs."""
    prefill_rows: int = 64
    in_flight: int = 1
    tree: bool = False
    branches: int = 8
    can_rollback: bool = True
    undo: UndoCost | None = None
    """What it costs to check drafts, where that is more than a pass."""
    ngram: bool = True
    ngram_match: int = MIN_MATCH
    recall_tokens: int = 0
    """So many tokens of the latest answers are remembered."""
    keepalive_s: float = 1.0
    stream_ms: float = 0.0
    """Pieces of a text that would come sooner than this one after the other travel together."""
    device: DeviceKind = DeviceKind.CPU
    """On what the target computes; drafters on the same device take turns with it."""
    score_rows: int = 0
    """Rows of a pass that scores given tokens; 0: the target cannot."""
    consensus: str = ""
    """By which policy drafters may agree on tokens that are not read at once; empty: they may not."""
    unread: int = 0
    """So many tokens may stand unread."""
    max_error: float = 0.05
    needs_drafters: bool = False
    """A job that may speculate fails where no drafter is there, instead of going on without."""


def usual_limits(target: Target, name: ModelId, model: ModelConfig, settings: Settings) -> SpeculatorLimits:
    """The bounds of whatever checks guesses for a model, as far as the settings and the target's size tell them."""
    ngram = settings.speculation.ngram
    return SpeculatorLimits(
        slots=target.n_slots,
        ctx_size=target.ctx_size,
        max_queue=settings.edge.max_queue,
        max_window=window_limit(settings, target.window_max),
        ngram=ngram.enabled,
        ngram_match=ngram.min_match,
        recall_tokens=ngram.recalls,
        stream_ms=model.stream_ms,
        needs_drafters=needs_drafters(settings, name),
    )


def window_limit(settings: Settings, window_max: int) -> int:
    """Most guesses in one window of a target that takes `window_max` tokens; 0 where none are to be checked."""
    speculation = settings.speculation
    wanted = _WINDOW_MAX if speculation.max_draft_tokens == "auto" else speculation.max_draft_tokens
    return max(0, min(wanted, window_max - 1)) if speculation.enabled else 0


def needs_drafters(settings: Settings, model: str) -> bool:
    """Whether a job of this model is to fail where its drafters do."""
    speculation = settings.speculation
    has_drafters = any(drafter.for_model in ("", model) for drafter in settings.drafters)
    return speculation.enabled and has_drafters and not speculation.fallback_on_draft_failure
