"""Computes one slice of a model: tokens or hidden states in, hidden states or logits out. For one thread only."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

import numpy as np

from twd.decoding.sampler import SamplerFactory
from twd.decoding.steps import RuledSampler
from twd.decoding.window import Sampler
from twd.engine.context import CTX_SIZE_MAX, EXACT_ROWS, FAST_ROWS, BatchTokens, ContextSettings, Logits
from twd.engine.device_rows.trial import RowsTrial, logits_place, try_device_rows
from twd.engine.exactness import ExactPlan, exact_plan
from twd.engine.heads.head import own_head
from twd.engine.heads.seat import HeadSeat
from twd.engine.host_memory.limits import available_bytes
from twd.engine.kernels import one_row_like_many, repacked_unevenly
from twd.engine.library import device_named
from twd.engine.model import ONE_SESSION, LoadedGguf, ModelLoadOptions
from twd.engine.slices.abort import AbortFlag, watch
from twd.engine.slices.blocks import require_block
from twd.engine.slices.states import CallbackStates, LayerInput, SliceStates, StageContext
from twd.engine.slices.undo import REACH, UNLIMITED, Compute, SliceUndo, apart
from twd.engine.steps.binding import RuleHolder
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.slice_layout import SliceFacts, facts_of
from twd.gguf_tools.slice_table import RULES
from twd.kit.progress import Progress, unheard
from twd.process.measuring_turn import MeasuringTurns
from twd.wire.failures import FailureCode, TwdError

_log = logging.getLogger("twd.engine")
_SNAPSHOTS = 8
_FEWEST_SNAPSHOTS = 2
_SHARE = 4
"""Snapshots take at most 1/4 of the free memory, and so do saved states."""
_STAND_IN = rb"^output\.weight$"
"""The output matrix of a slice without the head: only zeros, so it is kept out of the GPU's memory."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage holds and how it computes. With zero or an empty string, the engine chooses.

    `path` is the file of a slice with layers `first` to `end` (not included) of a model of `layers` layers, or the
    file of the whole model.
    """

    path: Path
    first: int
    end: int
    layers: int
    head: bool
    ctx_size: int = 0
    parallel: int = 4
    gpu_layers: int = 0
    device: str = ""
    """The name of the device for the GPU layers; empty: all devices that llama.cpp sees."""
    threads: int = 0
    type_k: str = ""
    type_v: str = ""
    flash_attention: bool = True
    exact: bool = True
    use_mmap: bool = True
    use_extra_bufts: bool = True
    from_disk: bool = False
    """Read the weights from disk while computing: slow and near instead of exact, but they need not fit in memory."""
    expert_bytes: int = 0
    """If given, experts of a mixture are read while it computes, and may take this much memory."""
    own_head: bool = False
    """Use the model's own head (multi-token prediction), if the slice has it."""


class StageEngine:
    """The layers of a slice with their own KV cache. Slots and positions are the same as for the whole model."""

    def __init__(
        self,
        model: LoadedGguf,
        facts: SliceFacts,
        context: StageContext,
        exact: ExactPlan,
        guesser: HeadSeat | None = None,
    ) -> None:
        settings = context.settings
        self.facts = facts
        self.first, self.head = facts.first == 0, facts.head
        self.n_embd = _state_width(model)
        """The width of the states between slices."""
        self._width_in = model.n_embd
        self.n_slots = settings.parallel
        self.ctx_size = settings.ctx_size
        self.window_max = settings.ubatch
        self.rows_min = exact.rows_min
        self.settings = exact.describe() + (", on a GPU" if model.offloads else "")
        self.model = model
        self.context = context
        self.guesser = guesser
        """The model's own head (multi-token prediction); None: this slice has none, or it is not used."""
        self._states = context.states
        self._flag: AbortFlag | None = None
        self._undo = _undo_of(context, self._compute_again) if context.recurrent else None
        self.can_pad = self._undo is None
        """Whether padding can be removed behind the tokens of a pass."""
        self.undoable = UNLIMITED if self._undo is None else REACH
        """How many of its last tokens a slot can always give back."""
        self._samplers = SamplerFactory(model.vocab) if facts.head else None
        self._rules: WeakKeyDictionary[Sampler, RuleHolder | None] = WeakKeyDictionary()

    @classmethod
    def load(cls, plan: StagePlan, progress: Progress = unheard) -> Self:
        """Load a slice. Expected failures are TwdErrors."""
        progress(0.0, "reading weights")
        uneven = plan.exact and repacked_unevenly(facts_of(inspect(plan.path)).blocks)
        settings = ModelLoadOptions(
            plan.path,
            gpu_layers=plan.gpu_layers,
            devices=(device_named(plan.device),) if plan.device else (),
            use_mmap=plan.use_mmap,
            use_extra_bufts=plan.use_extra_bufts and not uneven,
            from_disk=plan.from_disk,
            expert_bytes=plan.expert_bytes,
            head=plan.own_head and plan.head and not plan.expert_bytes,
            host_tensors=(_STAND_IN,) if plan.gpu_layers and not plan.head else (),
        )
        with MeasuringTurns().loading():
            model = LoadedGguf.load(settings, lambda share: progress(0.9 * share, "reading weights"))
        try:
            facts = _facts(model, plan)
            exact = _exact_plan(model, facts, plan)
            progress(0.95, "making room")
            sizes = replace(exact.settings, snapshots=_snapshots(model, exact.settings))
            context = StageContext(model, sizes, _states(model, facts, sizes))
            guesser = _guesser(context)
        except BaseException:
            model.close()
            raise
        engine = cls(model, facts, context, exact, guesser)
        engine.try_device_rows()
        progress(1.0, "ready")
        return engine

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary on the first stage and the output stage; 0 on other stages."""
        return self.model.vocab.size if self.facts.ends else 0

    @property
    def samplers(self) -> SamplerFactory:
        """The samplers of the output stage; other stages raise TwdError."""
        if self._samplers is None:
            raise TwdError(FailureCode.INTERNAL, "only the stage with the head picks tokens")
        return self._samplers

    def decode(self, rows: BatchTokens, states: Logits | None = None, aborted: AbortFlag | None = None) -> Logits:
        """Compute one forward pass over neighbouring slots, with the same number of tokens for each slot.

        The first stage reads the tokens. The other stages read `states`, `n_embd` floats for each token. Returns the
        states of all tokens. With the head it returns an empty array; then use `logits(row)` for the outputs. A pass
        that fails or is aborted (CANCELLED) leaves none of its tokens in the KV cache.
        """
        require_block(rows, self.n_slots, self.window_max)
        states = self._incoming(rows, states)
        if aborted is not self._flag:
            watch(self.context.handle, aborted)
            self._flag = aborted
        self._before(rows)
        try:
            made = self._compute(rows, states)
        except TwdError:
            self._forget(rows)
            raise
        self._remember(rows, states)
        return made

    def logits(self, row: int) -> Logits:
        """The logits of the token at index `row` of the last batch: a view that the next pass overwrites."""
        return self.context.logits(row)

    def choice(self, row: int, sampler: Sampler, history: Sequence[int]) -> int | None:
        """What a sampler picks behind a history at index `row` of the last batch, if that is known without all of the
        logits."""
        if self.context.device_rows is None:
            return None
        if sampler not in self._rules:
            rule = sampler.rule if isinstance(sampler, RuledSampler) else None
            self._rules[sampler] = None if rule is None else RuleHolder(rule)
        held = self._rules[sampler]
        return None if held is None else self.context.choice(row, held, history)

    def try_device_rows(self) -> None:
        """Leave the logits where they are computed from now on, if that gives the same picks in no more time. All slots
        must be empty."""
        place = logits_place(None, offloads=self.model.offloads) if self.head else None
        if place is None:
            return
        try:
            trial = try_device_rows(self.context, place, self._compute_anything)
        except TwdError as error:  # requests are told what is wrong
            self.context.fetch_logits()
            trial = RowsTrial(place=place, problem=str(error))
            for slot in range(self.n_slots):
                self.context.clear(slot)
        if told := trial.describe():
            _log.info("%s", told)

    def _compute_anything(self, rows: BatchTokens) -> Logits:
        """Compute a pass on the same states for each width."""
        shape = (len(rows), self.n_embd)
        random = np.random.default_rng(len(rows))
        return self._compute(rows, None if self.first else random.standard_normal(shape, np.float32))

    def rollback(self, slot: int, position: int) -> bool:
        """Remove the tokens of a slot from `position` on. Returns false if this model cannot do that."""
        return self.context.rollback(slot, position) if self._undo is None else self._undo.back(slot, position)

    def copy(self, source: int, target: int) -> None:
        """Copy slot `source` to slot `target`."""
        self.context.clear(target)
        self.context.copy(source, target)
        if self.guesser is not None:
            self.guesser.forget(target)
        if self._undo is not None:
            self._undo.copy(source, target)

    def clear(self, slot: int) -> None:
        """Remove all tokens of a slot."""
        if self.guesser is not None:
            self.guesser.forget(slot)
        if self._undo is None:
            self.context.clear(slot)
        else:
            self._undo.clear(slot)

    def end(self, slot: int) -> int:
        """The position after the last token of a slot; 0 if it is empty."""
        return self.context.end(slot)

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        if self.guesser is not None:
            self.guesser.close()
        self.context.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _compute(self, rows: BatchTokens, states: Logits | None) -> Logits:
        if self._states is not None:
            self._states.begin(states)
        given = None if states is None else np.ascontiguousarray(states[:, : self._width_in])
        self.context.decode(replace(rows, outputs=self._outputs(rows)), given)
        if self.head or self._states is None:
            return np.empty((0, self.n_embd), np.float32)
        return self._states.of_pass(len(rows))

    def _compute_again(self, rows: BatchTokens, states: Logits | None) -> None:
        """Compute tokens that were computed before. Nothing aborts that: the flag is meant for later tokens."""
        watch(self.context.handle, None)
        try:
            self._compute(rows, states)
        finally:
            watch(self.context.handle, self._flag)

    def _before(self, rows: BatchTokens) -> None:
        if self._undo is not None:
            for slot, span in rows.spans().items():
                self._undo.before(slot, rows.positions[span.start])

    def _remember(self, rows: BatchTokens, states: Logits | None) -> None:
        if self._undo is not None:
            for slot, span in rows.spans().items():
                came = None if states is None else states[span.start : span.stop]
                self._undo.computed(slot, rows.positions[span.start], rows.tokens[span.start : span.stop], came)

    def _incoming(self, rows: BatchTokens, states: Logits | None) -> Logits | None:
        if self.first:
            if states is not None:
                raise TwdError(FailureCode.BAD_REQUEST, "the first stage takes tokens, not states")
            return None
        if states is None or states.shape != (len(rows), self.n_embd):
            shape = "none" if states is None else f"{states.shape}"
            raise TwdError(FailureCode.BAD_REQUEST, f"{len(rows)} rows need {self.n_embd} floats each, not {shape}")
        return np.ascontiguousarray(states, np.float32)

    def _outputs(self, rows: BatchTokens) -> list[bool]:
        """The output flags of the batch. If states are needed, `SliceStates.outputs` decides for all tokens.

        With float weights, llama.cpp computes a single output with another kernel than two, so a second one is added.
        """
        if not self.head and self._states is not None:
            return [self._states.outputs] * len(rows)
        if self.rows_min > 1 and len(rows) > 1 and sum(rows.outputs) == 1:
            outputs = list(rows.outputs)
            outputs[outputs.index(False)] = True
            return outputs
        return rows.outputs

    def _forget(self, rows: BatchTokens) -> None:
        for slot, span in rows.spans().items():
            position = rows.positions[span.start]
            if self._undo is not None:
                self._undo.repair(slot, position)
            elif not self.rollback(slot, position):
                self.clear(slot)


def _facts(model: LoadedGguf, plan: StagePlan) -> SliceFacts:
    """The facts of the file; raises TwdError if the plan differs from them."""
    facts = facts_of(model.info)
    held = (facts.first, facts.end, facts.layers, facts.head)
    if held != (plan.first, plan.end, plan.layers, plan.head):
        raise TwdError(
            FailureCode.MODEL_LOAD,
            f"{plan.path.name} holds layers {facts.first}-{facts.end} of {facts.layers}"
            f"{' and the head' if facts.head else ''}, not {plan.first}-{plan.end} of {plan.layers}"
            f"{' and the head' if plan.head else ''}",
        )
    return facts


def _exact_plan(model: LoadedGguf, facts: SliceFacts, plan: StagePlan) -> ExactPlan:
    """The same plan as for the whole model, so that the text is the same."""
    wanted = ContextSettings(
        ctx_size=min(plan.ctx_size or CTX_SIZE_MAX, model.ctx_train or CTX_SIZE_MAX),
        parallel=1 if model.info.architecture in ONE_SESSION else plan.parallel,
        type_k=plan.type_k or "f16",
        type_v=plan.type_v or "f16",
        flash_attention=plan.flash_attention,
        threads=plan.threads,
        ubatch=EXACT_ROWS if plan.exact else FAST_ROWS,
    )
    exact = exact_plan(model, wanted, plan.exact)
    padded = plan.exact and not model.offloads and facts.floats and not one_row_like_many(model.info.tensors)
    return replace(exact, rows_min=2 if padded else 1)


def _snapshots(model: LoadedGguf, settings: ContextSettings) -> int:
    """How many snapshots of a recurrent state to ask llama.cpp for."""
    one = model.info.state_bytes * settings.parallel
    count = min(_SNAPSHOTS, available_bytes() // _SHARE // one) if one else _SNAPSHOTS
    return count if count >= _FEWEST_SNAPSHOTS and model.recurrent and model.may_snapshot else 0


def _guesser(context: StageContext) -> HeadSeat | None:
    """The model's own head. One that cannot be used is left aside."""
    try:
        return HeadSeat.of(own_head(context))
    except TwdError as error:
        _log.warning("the model's head is left aside: %s", error)
        return None


def _undo_of(context: StageContext, compute: Compute) -> SliceUndo:
    free = available_bytes() // _SHARE
    return SliceUndo(context, compute, apart(free, context.model.info.state_bytes, context.settings.parallel))


def _state_width(model: LoadedGguf) -> int:
    """How many numbers the state of a token has between two layers."""
    rule = RULES.get(model.info.architecture)
    if rule is None or not rule.streams:
        return model.n_embd
    count = model.info.metadata.get(f"{model.info.architecture}.hyper_connection.count", 1)
    return model.n_embd * (count if isinstance(count, int) else 1)


def _states(model: LoadedGguf, facts: SliceFacts, settings: ContextSettings) -> SliceStates | None:
    """The cheapest way to read and write hidden states. None if the slice needs no special treatment of them."""
    rule = RULES.get(model.info.architecture)
    restored = rule.restored if rule is not None and facts.first > 0 else ""
    output, width = (rule.layer_output if rule is not None else "l_out"), _state_width(model)
    last = facts.end - facts.first - 1
    if facts.head:
        return CallbackStates("", width, settings.ubatch, tail=True, restored=restored) if restored else None
    if facts.tail and rule is not None and rule.layer_inputs and not restored and LayerInput.available():
        return LayerInput(last + 1, model.n_embd)
    return CallbackStates(f"{output}-{last}", width, settings.ubatch, tail=facts.tail, restored=restored)
