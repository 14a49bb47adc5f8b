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
        """What other services must know of the model."""
        ...

    @property
    def exactness(self) -> Exactness:
        """The result of the self-test."""
        ...

    @property
    def target(self) -> Target:
        """The target that verifies windows."""
        ...

    @property
    def cost(self) -> CostCurve:
        """The cost curve of passes."""
        ...

    @property
    def limits(self) -> SpeculatorLimits:
        """The limits of the core."""
        ...

    @property
    def load_ms(self) -> int:
        """Milliseconds that loading took."""
        ...

    @property
    def tool_format(self) -> str:
        """The format in which the model writes tool calls."""
        ...

    @property
    def local(self) -> bool:
        """Whether jobs are prepared in this process, without another server."""
        ...

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Returns the tokens, sampler and seed of a job."""
        ...

    def render(self, tokens: Sequence[int]) -> str:
        """Returns tokens as text, with control tokens spelled out."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Returns a drafter's text as tokens of this model."""
        ...

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Returns the embedding of a text; blocks while it computes."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


Load = Callable[[Progress], LoadedModel]
"""Loads the model and reports its progress; runs on a thread of its own."""
