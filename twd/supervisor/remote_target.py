"""A server that scores guesses as the target of a speculator: where two rooms that do not know each other meet."""

from collections.abc import Sequence

from twd.backends.factory import verifying_loader
from twd.backends.verifier.model import VerifyingModel
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
from twd.wire.base import ModelId, SessionId
from twd.wire.draft import DeviceKind
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted
from twd.wire.model import Exactness, ModelFacts


class RemoteModel:
    """A verifying backend in the speculator's words."""

    def __init__(self, model: VerifyingModel, settings: Settings, name: str) -> None:
        self._name = name
        self._model = model
        self._settings = settings
        self._cost = CostCurve(model.points)

    @property
    def facts(self) -> ModelFacts:
        """What others must know of it."""
        return self._model.facts

    @property
    def exactness(self) -> Exactness:
        """Another server's arithmetic is not ours to promise."""
        return self._model.exactness

    @property
    def target(self) -> Target:
        """Checks windows, one request each."""
        return self._model.target

    @property
    def cost(self) -> CostCurve:
        """Times of windows, the way there and back included."""
        return self._cost

    @property
    def load_ms(self) -> int:
        """How long probing and measuring took."""
        return self._model.load_ms

    @property
    def tool_format(self) -> str:
        """How the model was taught to write calls."""
        return self._model.tool_format

    @property
    def limits(self) -> SpeculatorLimits:
        """The bounds of the core."""
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
            needs_drafters=needs_drafters(settings, self._name),
        )

    @property
    def local(self) -> bool:
        """The other server tokenizes."""
        return False

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Tokens, picker and seed of a job."""
        ready = self._model.prepare(job, job.sampling.seed or 0)
        return PreparedRequest(
            session=session,
            tokens=ready.tokens,
            sampler=ready.sampler,
            piece=ready.piece,
            end_tokens=ready.end_tokens,
            seed=ready.seed,
            thoughts=usual_thoughts(job.prompt),
        )

    def tokenize(self, text: str) -> list[int]:
        """A drafter's text as this model's tokens."""
        return self._model.tokenize(text)

    def render(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return self._model.render(tokens)

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Vectors are asked of that server itself."""
        raise TwdError(FailureCode.UNSUPPORTED, f"{request.model} gives no embeddings here; ask its own server")

    def close(self) -> None:
        """Hang up."""
        self._model.close()


def remote_speculator(ctx: ServiceContext, settings: Settings, name: str) -> SpeculatorService:
    """The speculator over one configured backend that scores guesses."""
    load = verifying_loader(settings, name)

    def connect(progress: Progress) -> LoadedModel:
        return RemoteModel(load(progress), settings, name)

    return SpeculatorService(ctx, ModelId(name), connect)
