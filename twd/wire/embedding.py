"""A text as a vector: one question, one answer."""

from twd.wire.base import Count, Event, JobId, ModelId
from twd.wire.job import Prompt


class EmbeddingRequested(Event, frozen=True, tag="twd.v1.embedding.requested"):
    """Somebody wants a text as a vector. Answered by EmbeddingMade, or by JobFailed."""

    job: JobId
    model: ModelId
    prompt: Prompt
    dimensions: Count = 0
    """How long the vector must be; 0: as long as the model makes it."""


class EmbeddingMade(Event, frozen=True, tag="twd.v1.embedding.made"):
    """The vector: 32-bit floats, little-endian, of length one."""

    job: JobId
    vector: bytes
    prompt_tokens: Count = 0
