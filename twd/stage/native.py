"""A stage that computes with llama.cpp in this process; its slice is cut from this machine's own copy of the model, or
came without it."""

import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from twd.decoding.window import Report, Sampler
from twd.engine.build import engine_build
from twd.engine.experts.budget import ExpertWish
from twd.engine.experts.choose import experts_in_memory
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.stream import ExpertStream
from twd.engine.model import ModelLoadOptions, offloads
from twd.engine.pass_threads import keep_all_threads
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.engine.slices.report import CheckedText
from twd.gguf_tools.header import read_header
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice_cache import cached_slice
from twd.gguf_tools.slice_layout import read_facts
from twd.kit.progress import Progress, Share
from twd.kit.service import ServiceContext
from twd.process.core_plan import EngineRole
from twd.process.core_registry import OwnCores
from twd.process.home import StateFolder
from twd.ring.frames import SessionSpec
from twd.ring.links import SWITCH_S
from twd.settings.model import Settings
from twd.stage.loaded import Load, LoadedSlice
from twd.stage.server import HeldSlice, LinkRules
from twd.stage.service import StageAddress, StageService
from twd.stage.timing import measure, remembered
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError

_CUT = 0.3
_LOADED = 0.9
_GRAMMARS_AFTER_S = 5.0


class NativeSlice(StageEngine):
    """A stage's engine that also creates the samplers of sessions."""

    _preparing: threading.Timer | None = None

    def prepare_grammars_later(self) -> None:
        """Prepare grammars a few seconds after the start: the first one takes a second, in which other sessions would
        wait, and the start itself should not."""
        self._preparing = threading.Timer(_GRAMMARS_AFTER_S, self.samplers.grammars.prepare)
        self._preparing.daemon = True
        self._preparing.start()

    def close(self) -> None:
        """Free the memory, when nobody reads it any more."""
        if self._preparing is not None:
            self._preparing.cancel()
            self._preparing.join()
        super().close()

    @property
    def experts(self) -> ExpertStream | None:
        """Its experts, if they are read from disk while it computes."""
        return self.model.experts

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text; known where the output head is."""
        return self.model.vocab.end_tokens if self.head else frozenset()

    def session(self, spec: SessionSpec) -> tuple[Sampler, Report | None]:
        """Return the sampler of a session, and what reports on its tokens."""
        if spec.check:
            checked = CheckedText(self.vocab_size)
            return checked, checked
        sampler = self.samplers.sampler(
            spec.sampling, spec.seed, prompt_len=spec.prompt_len, grammar=spec.grammar, ignore_eos=spec.ignore_eos
        )
        return sampler, None if spec.logprobs is None else self.samplers.reporter(spec.logprobs)


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """Which slice of which file to load, and how; `end` 0 means up to the last layer."""

    model: ModelId
    source: Path
    stage: StagePlan
    folder: Path | None = None
    """Folder of cached slices; None: in the cache of the state folder."""
    hash: str = ""
    """Hash of the expected model file; empty: any file."""
    experts: ExpertWish = field(default_factory=ExpertWish)
    """Whether the slice's experts are read while it computes, and how much memory they get."""


def _expert_bytes(stage: StagePlan, wish: ExpertWish) -> int:
    if offloads(ModelLoadOptions(stage.path, gpu_layers=stage.gpu_layers)):
        return 0
    if stage.end - stage.first < stage.layers and expert_layout(stage.path) is None:
        return 0  # other slices have the experts
    types = (stage.type_k or "f16", stage.type_v or "f16")
    return experts_in_memory(stage.path, wish, tokens=stage.ctx_size, sessions=stage.parallel, types=types)


def load_slice(plan: SlicePlan, progress: Progress) -> LoadedSlice:
    """Cut the slice unless it is here already, load it, measure its passes; return it."""
    began = time.monotonic()
    assert plan.folder is not None
    keep_all_threads(plan.stage.threads > 0)
    path, hash_, wanted = _slice_of(plan, lambda share: progress(_CUT * share, "cutting the slice"))
    layers = wanted.layers
    wanted = replace(wanted, path=path)
    engine = NativeSlice.load(
        replace(wanted, expert_bytes=_expert_bytes(wanted, plan.experts)),
        lambda share, stage: progress(_CUT + (_LOADED - _CUT) * share, stage),
    )
    try:
        held = HeldSlice(plan.model, hash_, wanted.first, wanted.end, layers, wanted.head)
        progress(_LOADED, "timing passes")
        where = f"{wanted.gpu_layers} {wanted.device}".strip()
        about = (hash_, engine.settings, str(wanted.threads), where, engine_build())
        if engine.model.offloads:  # this also builds the device's kernels before anybody waits for them
            timing = measure(engine, held, makes_kernels=True)
        else:
            timing = remembered(plan.folder, about, held, lambda: measure(engine, held))
        if wanted.head:
            engine.prepare_grammars_later()
    except BaseException:
        engine.close()
        raise
    progress(1.0, "ready")
    load_ms = int((time.monotonic() - began) * 1000)
    return LoadedSlice(held, engine, timing, engine_build(), engine.settings, load_ms, engine.model.offloads)


def _slice_of(plan: SlicePlan, progress: Share) -> tuple[Path, str, StagePlan]:
    """Return the file of the slice, the hash of its model, and the stage with all numbers filled in.

    The source is a whole model, or a slice that came without its model.
    """
    wanted = plan.stage
    facts = read_facts(read_header(plan.source).metadata) if plan.source.suffix == ".gguf" else None
    hash_ = facts.model if facts is not None else file_hash(plan.source)
    if plan.hash not in ("", hash_):
        text = f"{plan.source} is another file by now ({hash_[:8]}, not {plan.hash[:8]}); copy the model anew"
        raise TwdError(FailureCode.MODEL_LOAD, text)
    if facts is not None:
        if not wanted.end and not wanted.head:
            wanted = replace(wanted, first=facts.first, end=facts.end, head=facts.head)
        return plan.source, hash_, replace(wanted, layers=facts.layers, end=wanted.end or facts.end)
    layers = wanted.layers or inspect(plan.source).layers
    wanted = replace(wanted, layers=layers, end=wanted.end or layers)
    assert plan.folder is not None
    path = cached_slice(plan.source, wanted.first, wanted.end, wanted.head, plan.folder, progress=progress)
    return path, hash_, wanted


def loader(plan: SlicePlan) -> Load:
    """Return the function that loads this slice; the service chooses its thread."""
    return lambda progress: load_slice(plan, progress)


def native_stage(ctx: ServiceContext, settings: Settings, plan: SlicePlan, address: StageAddress) -> StageService:
    """Return a stage service whose links follow the settings."""
    plan = plan if plan.folder else replace(plan, folder=StateFolder(settings.home_dir).slices)
    sys.setswitchinterval(SWITCH_S)
    rules = LinkRules(key=settings.pool.key, trusted_lan=settings.pool.trusted_lan)
    cores = OwnCores(EngineRole.STAGE, plan.model, plan.stage.threads)
    return StageService(ctx, plan.model, loader(plan), address, rules, cores)
