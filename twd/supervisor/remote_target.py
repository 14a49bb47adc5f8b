"""A server that verifies drafts, as the target of a speculator. Connects twd.backends and twd.speculator, which do not
import each other."""

from collections.abc import Sequence

from twd.backends.factory import verifying_loader
from twd.backends.verifier.model import VerifyingModel
from twd.backends.verifier.target import CHUNK
from twd.chat.thoughts import usual_thoughts
from twd.decoding.cost import CostCurve
from twd.decoding.window import Target
from twd.kit.progress import Progress
from twd.kit.service import ServiceContext
from twd.settings.model import Settings
from twd.speculator.core.limits import SpeculatorLimits, needs_drafters, window_limit
from twd.speculator.core.session import PreparedRequest
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.embeddings import Embedding
from twd.speculator.targets.loaded import LoadedModel
from twd.speculator.targets.source import ReadySource
from twd.wire.base import ModelId, SessionId
from twd.wire.draft import DeviceKind
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted
from twd.wire.model import Exactness, ModelFacts


class RemoteModel:
    """A verifying backend behind the speculator's interface for models."""

    def __init__(self, model: VerifyingModel, settings: Settings, name: str) -> None:
        self._name = name
        self._model = model
        self._settings = settings
        self._cost = CostCurve(model.points)

    @property
    def facts(self) -> ModelFacts:
        """The facts of the model that others need."""
        return self._model.facts

    @property
    def exactness(self) -> Exactness:
        """How exact the model is; we cannot guarantee another server's arithmetic."""
        return self._model.exactness

    @property
    def target(self) -> Target:
        """The target, which verifies each window with one request."""
        return self._model.target

    @property
    def cost(self) -> CostCurve:
        """Milliseconds of a forward pass by its number of tokens, network time included."""
        return self._cost

    @property
    def load_ms(self) -> int:
        """Milliseconds that probing and measuring took."""
        return self._model.load_ms

    @property
    def tool_format(self) -> str:
        """The format in which the model writes tool calls."""
        return self._model.tool_format

    @property
    def limits(self) -> SpeculatorLimits:
        """The limits of the speculator's core."""
        target, settings = self._model.target, self._settings
        return SpeculatorLimits(
            slots=target.n_slots,
            ctx_size=target.ctx_size,
            max_queue=settings.edge.max_queue,
            max_window=window_limit(settings, target.window_max),
            prefill_rows=target.ctx_size,
            ngram=settings.speculation.ngram.enabled,
            ngram_match=settings.speculation.ngram.min_match,
            recall_tokens=settings.speculation.ngram.recalls,
            device=DeviceKind.ELSEWHERE,
            score_rows=CHUNK if self._model.can.weighs else 0,
            needs_drafters=needs_drafters(settings, self._name),
        )

    @property
    def local(self) -> bool:
        """False: the other server tokenizes."""
        return False

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Return the tokens, sampler and seed of a job."""
        ready = self._model.prepare(job, job.sampling.seed or 0)
        return PreparedRequest(
            session=session,
            tokens=ready.tokens,
            sampler=ready.sampler,
            piece=ready.piece,
            end_tokens=ready.end_tokens,
            seed=ready.seed,
            thoughts=usual_thoughts(job.prompt),
            judged=ready.judged,
        )

    def tokenize(self, text: str) -> list[int]:
        """Return a drafter's text as tokens of this model."""
        return self._model.tokenize(text)

    def render(self, tokens: Sequence[int]) -> str:
        """Return tokens as text."""
        return self._model.render(tokens)

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Always raises: embeddings are asked of that server directly."""
        raise TwdError(FailureCode.UNSUPPORTED, f"{request.model} gives no embeddings here; ask its own server")

    def close(self) -> None:
        """Close the connection."""
        self._model.close()


def remote_speculator(ctx: ServiceContext, settings: Settings, name: str) -> SpeculatorService:
    """Return the speculator over one configured backend that verifies drafts."""
    load = verifying_loader(settings, name)

    def connect(progress: Progress) -> LoadedModel:
        return RemoteModel(load(progress), settings, name)

    return SpeculatorService(ctx, ModelId(name), ReadySource(connect))
