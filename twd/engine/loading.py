"""Make a usable target from a model file: load it, choose exact settings, find its head, open its context."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from twd.chat.template import ChatTemplate
from twd.decoding.cost import CostCurve
from twd.decoding.sampler import SamplerFactory
from twd.engine.context import Context
from twd.engine.device_rows.trial import RowsTrial
from twd.engine.embedding import Embedder
from twd.engine.exactness import ExactPlan, exact_plan
from twd.engine.heads.head import GuessingHead, own_head
from twd.engine.heads.named import load_head, refuse_head
from twd.engine.load_plan import LoadPlan, load_options, wanted_context
from twd.engine.measuring.at_load import find_measurement, use_cost
from twd.engine.model import LoadedGguf, ModelLoadOptions, cards_of
from twd.engine.pass_threads import keep_all_threads
from twd.engine.rollback.find import FoundUndo, open_undoable
from twd.engine.target import LocalTarget
from twd.gguf_tools.head_file import pool_problem
from twd.gguf_tools.header import read_header
from twd.kit.progress import Progress
from twd.process.measuring_turn import MeasuringTurns
from twd.wire.draft import DeviceKind
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import Exactness, ModelFacts

_log = logging.getLogger("twd.engine")

_UNLIKE = "windows of drafts give this model other logits than single steps, so it takes no drafts"


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
    settings = load_options(plan)
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
    keep_all_threads(plan.threads > 0)
    refuse_head(plan.path)
    with MeasuringTurns().loading():
        model = LoadedGguf.load(settings, lambda share: progress(0.8 * share, "reading weights"))
    try:
        return _set_up(plan, model, progress, began)
    except BaseException:
        ChatTemplate.give_up()
        model.close()
        raise


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
        model, wanted_context(plan, model), plan.exact, on_cpus=plan.on_cpus, insist=plan.insist, kernels=kernels
    )
    progress(0.85, "making room")
    context, undo = open_undoable(model, exact.settings, plan.drafts_max)
    exact = replace(exact, settings=context.settings)
    try:
        head, no_head = _head(context, plan) if undo.works else (None, "")
        target = LocalTarget(context, rows_min=exact.rows_min, can_rollback=undo.works, undo=undo.undo, head=head)
        found = find_measurement(plan, exact, target, progress)
        cost = use_cost(plan, exact, target, found.cost, found.together)
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
