"""Models: loaded, measured, gone."""

from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Event, ModelId, Name, NodeId, Part, Share
from twd.wire.failures import Failure


class VocabFingerprint(Part, frozen=True):
    """Two models with equal `hash` speak the same tokens; the rest says how near others are."""

    hash: str
    tokens: Count
    kind: str = ""
    architecture: str = ""
    template_hash: str = ""


class CostPoint(Part, frozen=True):
    """The measured time of one pass over a window of `width` tokens."""

    width: Count
    ms: Annotated[float, Meta(ge=0)]


class Exactness(Part, frozen=True):
    """Whether a window's logits equal those of single steps: measured, not assumed."""

    exact: bool
    settings: str
    compared: Count = 0
    flipped: Count = 0
    max_difference: float = 0.0


class ModelFacts(Part, frozen=True):
    """What others must know of a loaded model."""

    model: ModelId
    file: str
    architecture: str
    quantization: str
    parameters: Count
    size_bytes: Count
    ctx_size: Count
    parallel: Count
    vocab: VocabFingerprint
    backend: str = "native"
    can_verify: bool = True
    can_rollback: bool = True
    chat_template: bool = True
    tool_format: str = ""
    """How it writes calls."""
    note: str = ""


class ModelLoading(Event, frozen=True, tag="twd.v1.model.loading"):
    """A model is on its way into memory."""

    model: ModelId
    node: NodeId
    progress: Share
    stage: str = ""


class ModelReady(Event, frozen=True, tag="twd.v1.model.ready"):
    """A model can take jobs."""

    node: NodeId
    facts: ModelFacts
    load_ms: Count = 0


class ModelMeasured(Event, frozen=True, tag="twd.v1.model.measured"):
    """The self-test at load: is it exact, and what does a window cost."""

    model: ModelId
    node: NodeId
    exactness: Exactness
    cost: list[CostPoint] = []


class ModelFailed(Event, frozen=True, tag="twd.v1.model.failed"):
    """A model could not be loaded, or was lost."""

    model: ModelId
    node: NodeId
    failure: Failure


class ModelUnloaded(Event, frozen=True, tag="twd.v1.model.unloaded"):
    """A model left memory in good order."""

    model: ModelId
    node: NodeId
    reason: Name = "stopped"
