"""What the service needs of a model in memory, whatever engine is behind it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from twd.decoding.cost import CostCurve
from twd.decoding.window import Target
from twd.kit.progress import Progress
from twd.speculator.core.limits import SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.speculator.targets.embeddings import Embedding
from twd.wire.base import SessionId
from twd.wire.embedding import EmbeddingRequested
from twd.wire.job import JobSubmitted
from twd.wire.model import Exactness, ModelFacts


class LoadedModel(Protocol):
    """A model that is ready to work."""

    @property
    def facts(self) -> ModelFacts:
        """What others must know of it."""
        ...

    @property
    def exactness(self) -> Exactness:
        """What the self-test found."""
        ...

    @property
    def target(self) -> Target:
        """Checks windows."""
        ...

    @property
    def cost(self) -> CostCurve:
        """Times of windows."""
        ...

    @property
    def limits(self) -> SpeculatorLimits:
        """The bounds of the core."""
        ...

    @property
    def load_ms(self) -> int:
        """How long loading took."""
        ...

    @property
    def tool_format(self) -> str:
        """How the model was taught to write calls."""
        ...

    @property
    def local(self) -> bool:
        """Whether jobs are prepared in this process, asking nobody else."""
        ...

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Tokens, picker and seed of a job."""
        ...

    def render(self, tokens: Sequence[int]) -> str:
        """Tokens as text, control tokens spelled out."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """A drafter's text as this model's tokens."""
        ...

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """The vector of a text; blocks while it computes."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


Load = Callable[[Progress], LoadedModel]
"""Loads the model, telling its progress; runs on a thread of its own."""
