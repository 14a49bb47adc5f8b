"""A speculator with llama.cpp in this process, from the settings of one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from twd.decoding.cost import CostCurve
from twd.decoding.window import Target
from twd.engine.experts.budget import ExpertWish
from twd.engine.experts.choose import experts_in_memory
from twd.engine.experts.native import can_foresee, can_tell_choices
from twd.engine.experts.stream import ExpertStream
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.engine.model import ModelLoadOptions, offloads
from twd.kit.progress import Progress
from twd.kit.service import ServiceContext
from twd.process.compute import gpu_layers, wanted_layers
from twd.process.core_plan import EngineRole
from twd.process.core_registry import OwnCores
from twd.process.home import StateFolder
from twd.settings.model import ModelConfig, Settings
from twd.settings.paths import path_of
from twd.speculator.admission.request_preprocessor import RequestPreprocessor, given_template
from twd.speculator.core.batch_planning import PROMPT_ROWS
from twd.speculator.core.drafted_experts import ExpertForesight
from twd.speculator.core.limits import SpeculatorLimits, usual_limits, with_votes
from twd.speculator.core.session import PreparedRequest
from twd.speculator.core.step_runs import longest_call_ms
from twd.speculator.service import SpeculatorService
from twd.speculator.targets.embeddings import Embedding
from twd.speculator.targets.loaded import Load
from twd.speculator.targets.memory_care import MemoryCare
from twd.speculator.targets.mixture_placement import advised, place_mixture
from twd.speculator.targets.source import ReadySource
from twd.wire.base import ModelId, SessionId
from twd.wire.embedding import EmbeddingRequested
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted
from twd.wire.model import Exactness, ModelFacts


@dataclass(slots=True)
class NativeTarget:
    """A loaded model as the service needs it."""

    native: NativeModel
    preparer: RequestPreprocessor
    bounds: SpeculatorLimits

    @property
    def limits(self) -> SpeculatorLimits:
        """The limits of the core."""
        return self.bounds

    @property
    def facts(self) -> ModelFacts:
        """What other services must know of the model."""
        return self.native.facts

    @property
    def exactness(self) -> Exactness:
        """The result of the self-test."""
        return self.native.exactness

    @property
    def target(self) -> Target:
        """The target that verifies windows."""
        return self.native.target

    @property
    def cost(self) -> CostCurve:
        """The cost curve of passes."""
        return self.native.cost

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards on which it computes."""
        return self.native.cards

    @property
    def load_ms(self) -> int:
        """Milliseconds that loading took."""
        return self.native.load_ms

    @property
    def tool_format(self) -> str:
        """The format in which the model writes tool calls."""
        return self.native.template.tool_format.value

    @property
    def local(self) -> bool:
        """True: jobs are prepared in this process."""
        return True

    @property
    def experts(self) -> ExpertStream | None:
        """Its experts, if they are read from disk while it computes."""
        return self.native.model.experts

    def prepare(self, job: JobSubmitted, session: SessionId) -> PreparedRequest:
        """Returns the tokens, sampler and seed of a job."""
        return self.preparer.prepare(job, session)

    def embed(self, request: EmbeddingRequested) -> Embedding:
        """Returns the embedding of a text."""
        embedder, wanted = self.native.embedder, request.dimensions
        if wanted not in (0, embedder.dimensions):
            message = f"{request.model} makes vectors of {embedder.dimensions} numbers; they cannot be cut to {wanted}"
            raise TwdError(FailureCode.UNSUPPORTED, message, "dimensions")
        tokens = self.preparer.tokens(request.prompt)
        return Embedding(embedder.embed(tokens).astype("<f4").tobytes(), len(tokens))

    def tokenize(self, text: str) -> list[int]:
        """Returns a drafter's text as tokens of this model."""
        return self.native.tokenize(text)

    def render(self, tokens: Sequence[int]) -> str:
        """Returns tokens as text, with control tokens spelled out."""
        return self.native.render(tokens)

    def close(self) -> None:
        """Free the memory."""
        self.native.close()


class HeadChoice(TypedDict):
    """The fields of a load plan about heads."""

    head: bool
    head_file: Path | None


def load_plan(name: ModelId, model: ModelConfig, memory: Path | None = None) -> LoadPlan:
    """Returns the load plan of the settings; with `auto` the engine chooses."""
    return LoadPlan(
        model=name,
        path=path_of(model.path),
        ctx_size=model.ctx_size,
        parallel=model.parallel,
        exact=bool(model.exact),
        insist=model.exact is True,
        gpu_layers=wanted_layers(model.gpu_layers),
        threads=0 if model.threads == "auto" else model.threads,
        use_mmap=model.mmap != "off",
        type_k="" if model.cache_type_k == "auto" else model.cache_type_k,
        type_v="" if model.cache_type_v == "auto" else model.cache_type_v,
        flash_attention=model.flash_attn != "off",
        template=given_template(model),
        memory=memory,
    )


def limits_of(native: NativeModel, model: ModelConfig, settings: Settings) -> SpeculatorLimits:
    """Returns the limits of a speculator with this model."""
    target, undo = native.target, native.undo
    experts = native.model.experts if can_foresee() else None
    usual = usual_limits(target, native.facts.model, model, settings)
    limits = replace(
        usual,
        max_window=min(usual.max_window, undo.drafts_max or usual.max_window),
        undo=undo.cost,
        prefill_rows=max(PROMPT_ROWS, target.window_max),
        tree=target.trees,
        head_ms=target.head.step_ms if target.head is not None else 0.0,
        can_rollback=native.facts.can_rollback,
        steps_ms=longest_call_ms(usual.stream_ms) if target.runs_steps else 0.0,
        score_rows=target.window_max,
        device=native.device,
        missing_ms=experts.missing_ms if experts is not None else None,
        foresee=experts.foresee_tokens if experts is not None else None,
        experts=_foresight(experts),
    )
    return with_votes(limits, target, settings) if undo.cost is None else limits


def _foresight(experts: ExpertStream | None) -> ExpertForesight | None:
    if experts is None or not can_tell_choices():
        return None
    return ExpertForesight(experts.experts_by_layer, experts.chosen, experts.foresee_choices)


def preparer_of(native: NativeModel, draw_seed: Callable[[], int]) -> RequestPreprocessor:
    """Returns what prepares the jobs of a model in this process."""
    return RequestPreprocessor(native.model.vocab, native.template, native.samplers, draw_seed, native.target.ctx_size)


def loader(name: ModelId, settings: Settings, draw_seed: Callable[[], int]) -> Load:
    """Returns the function that loads this model; the service runs it on a thread."""

    def load(progress: Progress) -> NativeTarget:
        home, model = StateFolder(settings.home_dir), settings.models[name]
        layers = gpu_layers(settings, model)
        plan = replace(load_plan(name, model, home.cache), gpu_layers=layers, **head_choice(name, settings))
        experts = _expert_bytes(model, layers)
        if experts:
            plan = replace(plan, use_mmap=True, expert_bytes=experts, head=False, head_file=None)
            native = load_native(plan, progress)
        else:
            plan = replace(plan, placement=place_mixture(model, home) if layers else None)
            try:
                native = _load_whole(plan, MemoryCare(model, settings), progress)
            except TwdError as error:
                raise (advised(error, model) if layers else error) from error
        return NativeTarget(native, preparer_of(native, draw_seed), limits_of(native, model, settings))

    return load


def _load_whole(plan: LoadPlan, care: MemoryCare, progress: Progress) -> NativeModel:
    care.prepare(progress)
    native = load_native(replace(plan, use_mmap=care.plan.mapped), care.watch(progress))
    care.finish()
    return native


def _expert_bytes(model: ModelConfig, layers: int) -> int:
    """Returns how much memory the experts get if they are read while the model computes; 0 if they are not."""
    if offloads(ModelLoadOptions(path_of(model.path), gpu_layers=layers)):
        if model.moe_stream == "on":
            why = "moe_stream is on, but layers go to a GPU, and experts are read for processors; set gpu_layers to 0"
            raise TwdError(FailureCode.UNSUPPORTED, why)
        return 0
    granted = 0 if model.moe_memory_gb == "auto" else int(model.moe_memory_gb * 2**30)
    wish = ExpertWish(model.moe_stream, granted)
    return experts_in_memory(
        path_of(model.path), wish, tokens=model.ctx_size, sessions=model.parallel, types=model.cache_types
    )


def head_choice(name: ModelId, settings: Settings) -> HeadChoice:
    """Returns which head guesses for a model: one that the settings name, or the one in its own file."""
    if not settings.speculation.enabled:
        return HeadChoice(head=False, head_file=None)
    named = [one.head for one in settings.drafters if one.head and one.for_model in ("", name)]
    return HeadChoice(head=settings.speculation.own_head, head_file=path_of(named[0]) if named else None)


def native_speculator(ctx: ServiceContext, settings: Settings, name: str) -> SpeculatorService:
    """Returns the speculator of one configured model."""
    model, told = ModelId(name), settings.models[name].threads
    source = ReadySource(
        loader(model, settings, ctx.ids.seed),
        reclaim=lambda: MemoryCare(settings.models[name], settings).reclaim(),
        cores=OwnCores(EngineRole.TARGET, model, 0 if told == "auto" else told),
    )
    return SpeculatorService(ctx, model, source)
