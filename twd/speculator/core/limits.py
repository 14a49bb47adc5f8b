"""The identity and the limits of a speculator."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from twd.decoding.window import SharesPrompts, Target
from twd.drafting.ngram import MIN_MATCH
from twd.drafting.undo_cost import UndoCost
from twd.settings.model import ModelConfig, Settings
from twd.speculator.core.drafted_experts import ExpertForesight
from twd.wire.base import InstanceId, ModelId, NodeId
from twd.wire.draft import DeviceKind
from twd.wire.model import ModelFacts, VocabFingerprint

_WINDOW_MAX = 32


def fingerprint_of(facts: ModelFacts, settings: str) -> str:
    """Returns the `system_fingerprint` of answers. It changes only when the file, quantization, vocabulary or settings
    change."""
    parts = (facts.file, facts.quantization, facts.vocab.hash, settings)
    return f"fp_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True)
class SpeculatorIdentity:
    """The names of a speculator, its machine and its model."""

    model: ModelId
    speculator: InstanceId
    node: NodeId
    vocab: VocabFingerprint
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class SpeculatorLimits:
    """Limits of one speculator; every queue has a limit."""

    slots: int
    ctx_size: int
    max_queue: int = 64
    max_window: int = 32
    ahead: int = 0
    """Most tokens that drafts may run ahead where several windows are in flight; 0: as many as one window needs."""
    prefill_rows: int = 64
    in_flight: int = 1
    tree: bool = False
    branches: int = 8
    can_rollback: bool = True
    least_shared: Callable[[int], int] | None = None
    """How many tokens a prompt must have in common with one that is read now, so that it waits for those, by the length
    of that one; None: prompts share nothing."""
    undo: UndoCost | None = None
    """The cost of undoing wrong drafts, where that costs more than a pass; None: nothing."""
    head_ms: float = 0.0
    """The milliseconds of one guess of the target's own head; 0: it has none."""
    ngram: bool = True
    ngram_match: int = MIN_MATCH
    recall_tokens: int = 0
    """How many tokens of the latest answers are kept for drafts."""
    keepalive_s: float = 1.0
    steps_ms: float = 0.0
    """How long one call of the target for several tokens may take; 0: it makes one token in a call."""
    stream_ms: float = 0.0
    """Pieces of a text that follow each other within this time are sent together."""
    device: DeviceKind = DeviceKind.CPU
    """The kind of device of the target. Drafters on the same device take turns with it."""
    score_rows: int = 0
    """Most rows of a pass that scores given tokens; 0: the target cannot score."""
    consensus: str = ""
    """The policy by which drafters may agree on tokens that the target reads only later; empty: they may not."""
    unread: int = 0
    """Most tokens that may stand unread by the target."""
    max_error: float = 0.05
    audit: float = 0.0
    """Share of the texts of which the target also reads the last tokens, on which drafters agreed."""
    missing_ms: Callable[[Sequence[int]], Sequence[float]] | None = None
    """Tokens of a window -> milliseconds in which a pass of the first of them, of the first two and so on reads experts
    from disk; None: they are all in memory."""
    foresee: Callable[[Sequence[int]], None] | None = None
    """Lets experts be read ahead that these tokens will want."""
    experts: ExpertForesight | None = None
    """Takes what drafters that are mixtures, too, chose for their guesses; None: it would be of no use."""
    needs_drafters: bool = False
    """True: a job with speculation fails where no drafter is attached, instead of running without."""


def usual_limits(target: Target, name: ModelId, model: ModelConfig, settings: Settings) -> SpeculatorLimits:
    """Returns the limits of a model's speculator, as far as the settings and the target give them."""
    ngram = settings.speculation.ngram
    return SpeculatorLimits(
        slots=target.n_slots,
        ctx_size=target.ctx_size,
        max_queue=settings.edge.max_queue,
        max_window=window_limit(settings, target.window_max),
        least_shared=target.least_shared if isinstance(target, SharesPrompts) else None,
        ngram=ngram.enabled,
        ngram_match=ngram.min_match,
        recall_tokens=ngram.recalls,
        stream_ms=model.stream_ms,
        needs_drafters=needs_drafters(settings, name),
    )


def with_votes(limits: SpeculatorLimits, target: Target, settings: Settings) -> SpeculatorLimits:
    """Returns the limits of a target that reads tokens on which drafters agreed, as far as the settings allow it."""
    votes = settings.consensus
    if votes.policy == "off":
        return limits
    unread = min(votes.unread, target.window_max - 1)
    return replace(limits, consensus=votes.policy, unread=unread, max_error=votes.max_error, audit=votes.audit)


def window_limit(settings: Settings, window_max: int) -> int:
    """Returns the most drafts in one window of a target that takes `window_max` tokens; 0: nothing is drafted."""
    speculation = settings.speculation
    wanted = _WINDOW_MAX if speculation.max_draft_tokens == "auto" else speculation.max_draft_tokens
    return max(0, min(wanted, window_max - 1)) if speculation.enabled else 0


def needs_drafters(settings: Settings, model: str) -> bool:
    """Returns whether a job of this model must fail where no drafter is attached."""
    speculation = settings.speculation
    has_drafters = any(drafter.for_model in ("", model) and not drafter.head for drafter in settings.drafters)
    return speculation.enabled and has_drafters and not speculation.fallback_on_draft_failure
