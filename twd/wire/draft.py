"""Guessing ahead: sessions told to drafters, guesses told to the speculator."""

import enum
from typing import Annotated, Final

from msgspec import Meta

from twd.wire.base import (
    Count,
    Event,
    InstanceId,
    JobId,
    ModelId,
    NodeId,
    Part,
    Position,
    PrefixHash,
    SessionId,
    Share,
    Token,
    Tokens,
)
from twd.wire.job import Grammar, Sampling, Seed
from twd.wire.model import VocabFingerprint

Credit = Annotated[int, Meta(ge=0, le=256)]
EXPERT_TOKENS_MAX: Final = 32
"""Of so many tokens at most a message tells the experts."""
EXPERT_NUMBERS_MAX: Final = 8192
"""Of so many numbers at most: drafters tell no more, and speculators look at no more."""
ExpertChoice = Annotated[list[Annotated[int, Meta(ge=0, lt=2**15)]], Meta(max_length=2048)]
"""The experts that a mixture chose for one token, layer after layer, as many in each; empty: not known."""


class DeviceKind(enum.StrEnum):
    """On what a model computes, as seen from the node of its process."""

    CPU = "cpu"
    GPU = "gpu"
    ELSEWHERE = "elsewhere"
    """On other nodes, in another process, or nobody knows where."""


class Voter(Part, frozen=True):
    """A drafter whose vote counts; all that draft with one file have one vote."""

    drafter: InstanceId
    model: str


class SessionOpened(Event, frozen=True, tag="twd.v1.session.opened"):
    """A text is being made; drafters may run ahead of it. Repeated for drafters that come late."""

    job: JobId
    session: SessionId
    model: ModelId
    speculator: InstanceId
    node: NodeId
    tokens: Tokens
    vocab: VocabFingerprint
    sampling: Sampling = Sampling()
    seed: Seed = 0
    credit: Credit = 16
    device: DeviceKind = DeviceKind.CPU
    text: str = ""
    """The tokens as text, control tokens spelled out; filled in where a drafter works on text."""
    prompt_tokens: Count = 0
    """So many of the tokens are the prompt."""
    grammar: Grammar | None = None
    """What the text behind the prompt must look like; left out where it is long."""
    ignore_eos: bool = False
    reading: bool = False
    """The target has not read the prompt yet: who computes on its cores waits for the first token."""
    drafter: InstanceId = InstanceId("")
    """For whom it is: a prompt is told to the drafters of its session, each by name, and to nobody else."""
    consensus: str = ""
    """By which policy drafters may agree on tokens that the target has not read; empty: they may not."""
    voters: list[Voter] = []
    wants_experts: bool = False
    """The target reads its experts from disk: drafters that are mixtures, too, may tell what they choose."""


class SessionClosed(Event, frozen=True, tag="twd.v1.session.closed"):
    """No more drafts are wanted for this session."""

    job: JobId
    session: SessionId
    model: ModelId = ModelId("")


class DraftProposed(Event, frozen=True, tag="twd.v1.draft.proposed"):
    """Guessed tokens that continue the prefix which ends before `at` and hashes to `prefix`.

    A branch is the same message with an earlier `at`. `more` is false when the
    drafter stops here by itself: nothing else comes until tokens are accepted.
    """

    session: SessionId
    drafter: InstanceId
    at: Position
    prefix: PrefixHash
    tokens: Annotated[list[Token], Meta(max_length=256)] = []
    confidence: Annotated[list[Share], Meta(max_length=256)] = []
    text: Annotated[str, Meta(max_length=4096)] = ""
    more: bool = True
    draft_ms: Annotated[float, Meta(ge=0)] = 0.0
    model: ModelId = ModelId("")
    """Of the session."""
    experts: Annotated[list[ExpertChoice], Meta(max_length=EXPERT_TOKENS_MAX)] = []
    """For each of the first guesses, what the drafter chose for the token before it, which it read to guess."""


class DraftGranted(Event, frozen=True, tag="twd.v1.draft.granted"):
    """How far a drafter may run ahead of what is accepted; 0 asks it to rest.

    It also stops by itself where the chance that all its guesses hold falls under `floor`.
    """

    session: SessionId
    drafter: InstanceId
    credit: Credit
    floor: Share = 0.3
    model: ModelId = ModelId("")
    reads: bool = False
    """It may read the prompt now, although it shares the target's cores: the target is nearly done with it."""


class DrafterAttached(Event, frozen=True, tag="twd.v1.drafter.attached"):
    """A drafter offers its guesses to every session of matching models, or of one model."""

    drafter: InstanceId
    node: NodeId
    model: ModelId
    vocab: VocabFingerprint
    by_text: bool = False
    device: DeviceKind = DeviceKind.CPU
    token_ms: Annotated[float, Meta(ge=0)] = 0.0
    for_model: ModelId = ModelId("")
    """The only model that it drafts for; empty: every one."""
    plan: Count = 0
    """How often its share of the cores has changed: what was measured before tells nothing of now."""
    size_bytes: Count = 0
    """Bytes of its weights; 0: not known."""
    yields: bool = False
    """Whether it shares cores with stages or workers, and gives way to them."""


def share_device(node: NodeId, device: DeviceKind, other: SessionOpened | DrafterAttached) -> bool:
    """Whether target and drafter compute on the same device, so that the time of one is the time of the other."""
    return other.node == node and other.device is device and device is not DeviceKind.ELSEWHERE


class DrafterChecked(Event, frozen=True, tag="twd.v1.drafter.checked"):
    """Whether a pair of drafter and target will pay: vocabulary, family, measured agreement."""

    drafter: InstanceId
    target: ModelId
    same_vocab: bool
    same_family: bool
    agreement: Share
    compared: Count
    pays: bool
    advice: str = ""


class DrafterPace(Part, frozen=True):
    """What a speculator measured of one drafter; told as JSON in its lease's `drafters`."""

    drafter: InstanceId
    model: str
    token_ms: float
    lead_ms: float
    agreement: Share
    compared: Count
    beside: bool = False
    by_text: bool = False


class DrafterDetached(Event, frozen=True, tag="twd.v1.drafter.detached"):
    """A drafter left."""

    drafter: InstanceId
    reason: str = ""
