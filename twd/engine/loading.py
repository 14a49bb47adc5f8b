"""Make a usable target from a model file: load it, choose exact settings, test them, measure the cost of passes."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from twd.chat.template import ChatTemplate
from twd.decoding.batches import WidthPadding
from twd.decoding.cost import CostCurve
from twd.decoding.sampler import SamplerFactory
from twd.engine.context import CTX_SIZE_MAX, EXACT_ROWS, FAST_ROWS, CacheLayout, Context, ContextSettings
from twd.engine.device_rows.trial import RowsTrial, logits_place, try_device_rows
from twd.engine.embedding import Embedder
from twd.engine.exactness import ExactPlan, exact_plan, fixed_rows, self_test, sessions_together
from twd.engine.heads.head import GuessingHead, own_head
from twd.engine.heads.named import load_head, refuse_head
from twd.engine.library import devices
from twd.engine.measuring.cost import SHARED_WIDTHS, measure_cost
from twd.engine.measuring.remembered import Measurement, circumstances, farther
from twd.engine.measuring.steps import keep_step
from twd.engine.model import ONE_SESSION, LoadedGguf, ModelLoadOptions, cards_of
from twd.engine.rollback.find import FoundUndo, open_undoable
from twd.engine.rpc.pool import HEAD, PoolPlan, gpu_layers, layer_names, open_devices, tensor_split
from twd.engine.target import LocalTarget
from twd.gguf_tools.head_file import pool_problem
from twd.gguf_tools.header import read_header
from twd.gguf_tools.inspect import inspect
from twd.kit.json_cache import recall, remember
from twd.kit.progress import Progress
from twd.wire.base import ModelId
from twd.wire.draft import DeviceKind
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import CostPoint, Exactness, ModelFacts

_log = logging.getLogger("twd.engine")

_UNMEASURED = (CostPoint(width=1, ms=5.0), CostPoint(width=32, ms=50.0))
_TIMING_S = 0.3
_UNLIKE = "windows of drafts give this model other logits than single steps, so it takes no drafts"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to load and how. With zero or an empty string, the engine chooses."""

    model: ModelId
    path: Path
    ctx_size: int = 0
    parallel: int = 4
    exact: bool = True
    insist: bool = False
    """Be exact on GPUs, too, even if it is slow."""
    gpu_layers: int = 0
    threads: int = 0
    use_mmap: bool = True
    type_k: str = ""
    type_v: str = ""
    flash_attention: bool = True
    tree: bool = False
    branches: int = 7
    template: str = ""
    """A Jinja chat template that replaces the model's own."""
    drafts_max: int = 16
    """Most drafts of one window. If memory allows, a recurrent state gets this many snapshots."""
    test: bool = True
    """Run the self-test (windows against single steps) and measure the time of passes."""
    head: bool = False
    """Use the model's own head (multi-token prediction), if its file has one."""
    head_file: Path | None = None
    """The file of a trained head (EAGLE-3) that is used instead."""
    timed: bool = False
    """Measure the time of passes also if `test` is off."""
    memory: Path | None = None
    """A folder that keeps measurements, so that the same model is not measured again."""
    expert_bytes: int = 0
    """If given, experts of a mixture are read while it computes, and may take this much memory."""
    remember: bool = False
    """Remember which experts of a mixture each token chooses, where all of them are in this machine's memory."""
    pool: PoolPlan | None = None
    """Which layers go to which devices and RPC workers. If given, `gpu_layers` is ignored."""

    @property
    def on_cpus(self) -> bool:
        """Whether there is a pool, and all its layers are computed on CPUs."""
        return self.pool is not None and self.pool.on_cpus

    @property
    def away(self) -> bool:
        """Whether a pool gives some layers to other devices or machines."""
        return self.pool is not None and bool(self.pool.away)


@dataclass(slots=True)
class NativeModel:
    """A model that is loaded in this process and ready to use."""

    model: LoadedGguf
    target: LocalTarget
    template: ChatTemplate
    samplers: SamplerFactory
    embedder: Embedder
    cost: CostCurve
    exactness: Exactness
    facts: ModelFacts
    load_ms: int
    undo: FoundUndo
    """How it rolls tokens back."""

    @property
    def device(self) -> DeviceKind:
        """The kind of device it computes on: GPU if any of its layers go to one."""
        return DeviceKind.GPU if self.model.offloads else DeviceKind.CPU

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards it computes on."""
        return cards_of(self.model.settings)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of plain text; no part of the text becomes a control token."""
        return self.model.vocab.plain(text)

    def render(self, tokens: Sequence[int]) -> str:
        """The text of tokens; control tokens appear by their names."""
        return self.model.vocab.spelled(tokens)

    def close(self) -> None:
        """Free the memory. Call it only after the thread that ran the target has ended."""
        self.template.close()
        self.embedder.close()
        self.target.shutdown()
        self.model.close()


def load_native(plan: LoadPlan, progress: Progress) -> NativeModel:
    """Load and measure a model. Expected failures are TwdErrors.

    For some types of repacked weights, llama.cpp computes a batch of one token in another order than a larger batch.
    If the self-test finds that, the model is loaded again without repacking.
    """
    settings = _model_settings(plan)
    native = _load(plan, settings, progress)
    repacked = native.model.repacked and not native.model.offloads
    if native.exactness.exact or not (plan.exact and plan.test and repacked):
        return native
    _log.info("repacked weights are not exact, so they are loaded as they come")
    native.close()
    return _load(plan, replace(settings, use_extra_bufts=False), progress)


def _load(plan: LoadPlan, settings: ModelLoadOptions, progress: Progress) -> NativeModel:
    began = time.monotonic()
    progress(0.0, "reading weights")
    refuse_head(plan.path)
    model = LoadedGguf.load(settings, lambda share: progress(0.8 * share, "reading weights"))
    try:
        return _set_up(plan, model, progress, began)
    except BaseException:
        model.close()
        raise


def _model_settings(plan: LoadPlan) -> ModelLoadOptions:
    """The options for llama.cpp. In an exact pool no weights are repacked: RPC workers never repack, and the text must
    not depend on which machine holds a layer."""
    if plan.pool is None:
        return ModelLoadOptions(
            path=plan.path,
            gpu_layers=plan.gpu_layers,
            use_mmap=plan.use_mmap,
            head=plan.head,
            expert_bytes=plan.expert_bytes,
            remember=plan.remember,
        )
    info, head_here = inspect(plan.path), plan.pool.head_here and bool(plan.pool.away)
    own_head = [layer_names(info.layers, info.layers + info.head_layers)] if info.head_layers else []
    return ModelLoadOptions(
        path=plan.path,
        gpu_layers=gpu_layers(plan.pool, info.head_layers),
        use_mmap=plan.use_mmap,
        use_extra_bufts=not plan.exact,
        devices=open_devices(plan.pool),
        tensor_split=tensor_split(plan.pool, info.head_layers),
        head=plan.head and (head_here or not plan.pool.away),
        host_tensors=(HEAD, *own_head) if head_here else (),
    )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A context of a model, and the results of its test and measurements."""

    plan: ExactPlan
    target: LocalTarget
    exactness: Exactness
    cost: CostCurve
    undo: FoundUndo
    no_head: str = ""
    """Why a head is not used."""
    rows: RowsTrial | None = None
    """Whether logits stay on the device; None: not tried."""

    def refuses_drafts(self, plan: LoadPlan) -> bool:
        """Whether to refuse drafts: the model rolls back by a saved state or snapshots, and the test was not exact."""
        by_state = self.undo.state_bytes > 0
        return by_state and plan.exact and plan.test and not self.exactness.exact


def _set_up(plan: LoadPlan, model: LoadedGguf, progress: Progress, began: float) -> NativeModel:
    ChatTemplate.begin(plan.template or model.chat_template)
    ready = _prepare(plan, model, progress)
    if ready.plan.ours and plan.test and not ready.exactness.exact:
        ready.target.shutdown()
        ready = _prepare(plan, model, progress, kernels=False)
    target = ready.target
    try:
        facts = model.facts(
            plan.model,
            ctx_size=target.ctx_size,
            parallel=target.n_slots,
            can_rollback=target.can_rollback and not ready.refuses_drafts(plan),
            note=_UNLIKE if ready.refuses_drafts(plan) else _note(ready),
        )
        template = ChatTemplate.of(plan.template or model.chat_template, model.vocab)
        model.vocab.warm()
    except BaseException:
        target.shutdown()
        raise
    progress(1.0, "ready")
    return NativeModel(
        model=model,
        target=target,
        template=template,
        samplers=SamplerFactory(model.vocab),
        embedder=Embedder(model, ready.plan.settings),
        cost=ready.cost,
        exactness=ready.exactness,
        facts=facts,
        load_ms=int((time.monotonic() - began) * 1000),
        undo=ready.undo,
    )


def _note(ready: _Ready) -> str:
    """What status tells of how drafts are made and undone."""
    head = ready.target.head
    told = f"{head.name} guesses, {head.step_ms:.2f} ms each" if head is not None else ""
    rows = ready.rows.describe() if ready.rows is not None else ""
    return "; ".join(filter(None, (ready.undo.describe(), told, ready.no_head, rows)))


def _prepare(plan: LoadPlan, model: LoadedGguf, progress: Progress, *, kernels: bool = True) -> _Ready:
    """Make a context and measure it. `kernels`: whether the plan may rely on our own kernels."""
    exact = exact_plan(
        model, _wanted(plan, model), plan.exact, on_cpus=plan.on_cpus, insist=plan.insist, kernels=kernels
    )
    progress(0.85, "making room")
    context, undo = open_undoable(model, exact.settings, plan.drafts_max)
    exact = replace(exact, settings=context.settings)
    try:
        head, no_head = _head(context, plan) if undo.works else (None, "")
        target = LocalTarget(context, rows_min=exact.rows_min, can_rollback=undo.works, undo=undo.undo, head=head)
        found = _found(plan, exact, target, progress)
        cost = _use_cost(plan, exact, target, found.cost, found.together)
    except BaseException:
        context.close()
        raise
    return _Ready(exact, target, found.exactness, cost, undo, no_head, found.rows)


def _head(context: Context, plan: LoadPlan) -> tuple[GuessingHead | None, str]:
    """The head that the plan names, or else the model's own. One that cannot be used is left aside, with the reason."""
    reason = ""
    for find in (_named_head, _own_head):
        try:
            head = find(context, plan)
        except TwdError as error:
            _log.warning("a head is left aside: %s", error)
            reason = reason or str(error)
            continue
        if head is not None:
            return head, f"the named one does not: {reason}" if reason else ""
    return None, f"without a head: {reason}" if reason else ""


def _named_head(context: Context, plan: LoadPlan) -> GuessingHead | None:
    """The head that the plan names, if any; raises TwdError if it cannot be used."""
    if plan.head_file is None:
        return None
    if plan.away:
        raise TwdError(FailureCode.UNSUPPORTED, pool_problem(read_header(plan.head_file), "rpc"))
    return load_head(context, plan.head_file)


def _own_head(context: Context, plan: LoadPlan) -> GuessingHead | None:
    """The model's own head, if any; raises TwdError if it would have to cross the network for each guess."""
    has_own = plan.head and context.model.info.head_layers > 0
    if has_own and plan.away and plan.pool is not None and not plan.pool.head_here:
        why = "the output head lies on another machine, so each guess would be a trip there"
        raise TwdError(FailureCode.UNSUPPORTED, f"the model's own head does not guess over RPC: {why}")
    return own_head(context)


def _wanted(plan: LoadPlan, model: LoadedGguf) -> ContextSettings:
    trained = model.ctx_train or CTX_SIZE_MAX
    exact = plan.exact and (plan.insist or plan.on_cpus or not model.offloads)
    return ContextSettings(
        ctx_size=min(plan.ctx_size or CTX_SIZE_MAX, trained),
        parallel=1 if plan.tree or model.info.architecture in ONE_SESSION else plan.parallel,
        layout=CacheLayout.TREE if plan.tree else CacheLayout.STREAMS,
        branches=plan.branches if plan.tree else 0,
        type_k=plan.type_k or "f16",
        type_v=plan.type_v or "f16",
        flash_attention=plan.flash_attention,
        threads=plan.threads,
        ubatch=EXACT_ROWS if exact else FAST_ROWS,
    )


def _found(plan: LoadPlan, exact: ExactPlan, target: LocalTarget, progress: Progress) -> Measurement:
    """What is known of this model here, measured before or now."""
    if plan.test or plan.timed:
        return _measured(plan, exact, target, progress)
    return Measurement(exactness=_untested(exact), cost=list(_UNMEASURED))


def _untested(exact: ExactPlan) -> Exactness:
    return Exactness(exact=False, settings=exact.describe())


def _measured(plan: LoadPlan, exact: ExactPlan, target: LocalTarget, progress: Progress) -> Measurement:
    """The measurement of this model under these conditions, from the folder, or else measured now."""
    if plan.memory is None:
        return _measure_now(plan, exact, target, progress)
    where, way_ms = (plan.pool.kind, plan.pool.rtt_ms) if plan.pool else ("", 0.0)
    if plan.expert_bytes:
        share = round(10 * plan.expert_bytes / max(1, target.context.model.info.size_bytes))
        where = f"{share}/10 of the experts in memory"
    repacked = target.context.model.repacked
    about = circumstances(
        plan.path, exact.settings, exact.rows_min, plan.gpu_layers, where, repacked=repacked, tested=plan.test
    )
    kept = plan.memory / about.name
    known = recall(kept, Measurement)
    if known is not None:
        if known.rows is not None:
            known.rows.leave(target.context)
        return farther(known, way_ms)
    found = _measure_now(plan, exact, target, progress)
    remember(kept, farther(found, -way_ms))
    alone = _only_device(plan, target) if not where else None  # otherwise other machines or a disk took part
    if alone is not None:
        keep_step(plan.memory, plan.path, found.cost, alone)
    return found


def _only_device(plan: LoadPlan, target: LocalTarget) -> str | None:
    """llama.cpp's name of the only GPU, if it computes all layers; empty: the CPU computes all; None: several do."""
    model = target.context.model
    if not model.offloads:
        return ""
    cards = [device.name for device in devices() if device.is_gpu]
    return cards[0] if len(cards) == 1 and plan.gpu_layers > model.info.layers else None


def _use_cost(
    plan: LoadPlan, exact: ExactPlan, target: LocalTarget, points: Sequence[CostPoint], together: int = 1
) -> CostCurve:
    """Let the planner use the measured cost of passes. Returns the cost curve of passes planned like that."""
    if exact.fixed:
        each = fixed_rows(points, together)
        target.fix_rows(each, together)
        rows = each * together
        ms = CostCurve(points).ms(rows)
        return CostCurve([CostPoint(width=many * rows, ms=many * ms) for many in (1, 2)])
    padding = WidthPadding(tuple(points), target.window_max if plan.away else 0)
    cost = CostCurve(padding.costs())
    target.planner.use_cost(cost.ms, padding)
    return cost


def _measure_now(plan: LoadPlan, exact: ExactPlan, target: LocalTarget, progress: Progress) -> Measurement:
    progress(0.9, "timing windows")
    place = logits_place(plan.pool, offloads=target.context.model.offloads)
    rows = None if place is None else try_device_rows(target.context, place)
    if not plan.test:
        cost = measure_cost(target.context, budget_s=_TIMING_S)
        return Measurement(exactness=_untested(exact), cost=cost, rows=rows)
    reads = plan.expert_bytes > 0
    more = SHARED_WIDTHS if exact.fixed else ()
    points = measure_cost(target.context, rows_min=exact.rows_min, away=plan.away, reads=reads, more=more)
    shares = exact.fixed and target.planner.rules.can_pad
    together = sessions_together(points, target.n_slots) if shares else 1
    found = _tested(plan, exact, target, points, together, progress)
    if together > 1 and not found.exact:
        _log.info("sessions that share a pass change each other's texts on this device, so none do")
        together, found = 1, _tested(plan, exact, target, points, 1, progress)
    return Measurement(exactness=found, cost=points, together=together, rows=rows)


def _tested(
    plan: LoadPlan,
    exact: ExactPlan,
    target: LocalTarget,
    points: Sequence[CostPoint],
    together: int,
    progress: Progress,
) -> Exactness:
    if exact.fixed or plan.away:  # otherwise the test's single steps must have one token, even if more seem cheaper
        _use_cost(plan, exact, target, points, together)
    progress(0.95, "comparing windows with single steps")
    rules = target.planner.rules
    return self_test(target, exact.describe(rules.rows_fixed, rules.together))
