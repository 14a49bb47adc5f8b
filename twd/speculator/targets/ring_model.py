"""A model over a ring, as the service needs it: this process has only the vocabulary, the template and the links."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from twd.chat.template import ChatTemplate
from twd.decoding.cost import CostCurve
from twd.decoding.sampler import SamplerFactory
from twd.decoding.window import Report, Sampler
from twd.drafting.continuation import KnownContinuation
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.engine.slices.undo import UNLIMITED
from twd.gguf_tools.head_file import pool_problem
from twd.gguf_tools.header import read_header
from twd.kit.progress import Progress
from twd.ring.driver import RingDriver
from twd.ring.frames import SessionSpec
from twd.ring.target import RemoteSpecReport, RemoteSpecSampler, RingTarget
from twd.ring.trial import RingTrial, pipe_of
from twd.settings.model import ModelConfig, Settings
from twd.settings.paths import path_of
from twd.speculator.admission.request_preprocessor import RequestPreprocessor, given_template
from twd.speculator.core.limits import SpeculatorLimits, usual_limits, with_votes
from twd.speculator.core.session import PreparedRequest
from twd.speculator.targets.embeddings import Embedding
from twd.speculator.targets.native import head_choice
from twd.speculator.targets.ring_check import CutCheck
from twd.wire.base import ModelId, SessionId
from twd.wire.draft import DeviceKind
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, JobSubmitted, Sampling
from twd.wire.model import Exactness, ModelFacts
from twd.wire.ring import StageReady, StateFormat

_IN_FLIGHT_MAX: Final = 32
_AHEAD: Final = 128
_TEXT: Final = "In a harbour there were 4 ships; each had a name, a captain, and a reason to stay."


class SpecSamplerFactory:
    """Samplers that only carry the parameters for the output stage. Errors in a job are still found here."""

    def __init__(self, samplers: SamplerFactory) -> None:
        self._samplers = samplers

    def sampler(
        self,
        sampling: Sampling,
        seed: int,
        *,
        prompt_len: int,
        grammar: Grammar | None = None,
        ignore_eos: bool = False,
    ) -> Sampler:
        """Returns the parameters for the output stage; raises as the real sampler would."""
        self._samplers.sampler(sampling, seed, prompt_len=prompt_len, grammar=grammar, ignore_eos=ignore_eos)
        return RemoteSpecSampler(SessionSpec(sampling, seed, prompt_len, grammar, ignore_eos))

    def ahead(self, grammar: Grammar, *, binding: bool = True) -> KnownContinuation:
        """Returns what gives the forced tokens of a grammar; it runs here, although the output stage samples."""
        return self._samplers.ahead(grammar, binding=binding)

    def reporter(self, top: int) -> Report:
        """Returns how many alternatives the output stage should report."""
        return RemoteSpecReport(top)


@dataclass(slots=True)
class RingModel:
    """A `LoadedModel` over a ring."""

    model: LoadedGguf
    template: ChatTemplate
    preparer: RequestPreprocessor
    ring: RingTarget
    bounds: SpeculatorLimits
    facts: ModelFacts
    exactness: Exactness
    load_ms: int
    check: CutCheck

    def recheck(self, home: RingDriver, stages: Sequence[StageReady]) -> None:
        """Check another ring before it serves; it raises if the ring computes something else."""
        doubt = self.check.run(home, stages, self.model.vocab.size)
        if doubt and self.exactness.exact:
            self.exactness = msgspec.structs.replace(self.exactness, exact=False, settings=doubt)

    @property
    def limits(self) -> SpeculatorLimits:
        """The limits of the core."""
        return self.bounds

    @property
    def target(self) -> RingTarget:
        """The target that verifies windows."""
        return self.ring

    @property
    def cost(self) -> CostCurve:
        """The cost curve of passes around the ring, as measured now."""
        return CostCurve(self.ring.pipe.points())

    @property
    def tool_format(self) -> str:
        """The format in which the model writes tool calls."""
        return self.template.tool_format.value

    @property
    def local(self) -> bool:
        """True: jobs are prepared in this process."""
        return True

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Returns the tokens, sampler and seed of a job."""
        return self.preparer.prepare(job, session)

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Raise TwdError: a ring gives no embeddings."""
        raise TwdError(FailureCode.UNSUPPORTED, f"{request.model} lies on several machines and gives no embeddings")

    def tokenize(self, text: str) -> list[int]:
        """Returns a drafter's text as tokens of this model."""
        return self.model.vocab.plain(text)

    def render(self, tokens: Sequence[int]) -> str:
        """Returns tokens as text, with control tokens spelled out."""
        return self.model.vocab.spelled(tokens)

    def close(self) -> None:
        """Free the memory; the thread that ran the target has ended."""
        self.ring.shutdown()
        self.ring.home.join()
        self.template.close()
        self.model.close()


def _target(home: RingDriver, stages: Sequence[StageReady], model: LoadedGguf, settings: Settings) -> RingTarget:
    pipe = pipe_of(stages, home.bounds.credits)
    return RingTarget(home, pipe, vocabulary=model.vocab.size, in_flight=_in_flight(settings))


def load_ring(
    name: ModelId,
    settings: Settings,
    home: RingDriver,
    stages: Sequence[StageReady],
    draw_seed: Callable[[], int],
    progress: Progress,
) -> RingModel:
    """Returns the model over a ring: the vocabulary is read from this machine's copy of the file, and the ring is
    checked and tried."""
    began = time.monotonic()
    entry = settings.models[name]
    given = given_template(entry)
    progress(0.1, "reading the vocabulary")
    model = LoadedGguf.load(ModelLoadOptions(path=path_of(entry.path), vocab_only=True))
    try:
        template = ChatTemplate.of(given or model.chat_template, model.vocab)
        model.vocab.warm()
        target = _target(home, stages, model, settings)
        check = CutCheck(name, settings)
        doubt = check.run(home, stages, model.vocab.size, progress)
        progress(0.6, "trying the ring")
        exactness = _exactness(home, target, model, stages, settings, doubt)
        target.can_rollback = exactness.exact or home.bounds.undoable == UNLIMITED
    except BaseException:
        model.close()
        raise
    progress(1.0, "ready")
    samplers = SpecSamplerFactory(SamplerFactory(model.vocab))
    return RingModel(
        model=model,
        template=template,
        preparer=RequestPreprocessor(model.vocab, template, samplers, draw_seed, target.ctx_size),
        ring=target,
        bounds=_limits(target, name, settings, stages[-1].guess_ms if settings.speculation.own_head else 0.0),
        facts=_facts(model, name, entry, target, stages, _left_out(name, settings)),
        exactness=exactness,
        load_ms=int((time.monotonic() - began) * 1000),
        check=check,
    )


def _in_flight(settings: Settings) -> int:
    wanted = settings.speculation.windows_in_flight
    return _IN_FLIGHT_MAX if wanted == "auto" else wanted


def _limits(target: RingTarget, name: ModelId, settings: Settings, head_ms: float) -> SpeculatorLimits:
    limits = replace(
        usual_limits(target, name, settings.models[name], settings),
        can_rollback=target.can_rollback,
        prefill_rows=target.window_max,
        score_rows=target.window_max,
        in_flight=target.in_flight,
        ahead=_AHEAD,
        head_ms=head_ms,
        device=DeviceKind.ELSEWHERE,
    )
    return with_votes(limits, target, settings) if target.can_rollback else limits


def _facts(
    model: LoadedGguf,
    name: ModelId,
    entry: ModelConfig,
    target: RingTarget,
    stages: Sequence[StageReady],
    left_out: str,
) -> ModelFacts:
    can = target.can_rollback
    facts = model.facts(name, ctx_size=target.ctx_size, parallel=target.n_slots, can_rollback=can)
    cut = ", ".join(f"{one.first}-{one.end}{'+head' if one.head else ''}" for one in stages)
    guess_ms = stages[-1].guess_ms
    head = f"; its own head guesses on the last stage, {guess_ms:.2f} ms each" if guess_ms else ""
    note = f"a ring of {len(stages)} stages: layers {cut}{head}{left_out}"
    return msgspec.structs.replace(facts, backend="ring", note=note)


def _left_out(name: ModelId, settings: Settings) -> str:
    """Returns why a named head does not guess; empty if none is named."""
    head = head_choice(name, settings)["head_file"]
    if head is None:
        return ""
    try:
        return f"; without a head: {pool_problem(read_header(head), 'ring')}"
    except TwdError as error:
        return f"; without a head: {error}"


def _exactness(
    home: RingDriver,
    target: RingTarget,
    model: LoadedGguf,
    stages: Sequence[StageReady],
    settings: Settings,
    doubt: str,
) -> Exactness:
    """Returns what the trial of the ring found. It is never exact if the check of the cut left a doubt, if states are
    sent as f16, or if the stages have different builds."""
    vocab = model.vocab
    text = vocab.tokenize(_TEXT, parse_special=False, add_bos=True) if vocab.kind != "none" else list(range(1, 30))
    told = f"{stages[-1].settings or 'unknown settings'}, a ring of {len(stages)}"
    found = RingTrial(home, target, text).run(told)
    if StateFormat(settings.pool.states) is StateFormat.F16:
        return msgspec.structs.replace(found, exact=False, settings=f"{told}, states in f16")
    if len({one.build for one in stages}) > 1:
        return msgspec.structs.replace(found, exact=False, settings=f"{told}, stages of unlike builds")
    if doubt:
        return msgspec.structs.replace(found, exact=False, settings=f"{told}, {doubt}")
    return found
