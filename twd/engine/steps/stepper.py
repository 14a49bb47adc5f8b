"""Prepares runs of steps for the native loop, and reads what came back."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from twd.decoding.batches import ForwardBatch
from twd.decoding.steps import ChanceReport
from twd.decoding.window import Logits
from twd.engine.context import BatchTokens, Context
from twd.engine.slices.abort import AbortFlag
from twd.engine.steps.binding import (
    NativeEnd,
    NativeRow,
    NativeRun,
    NativeSteps,
    NativeText,
    RuleHolder,
)
from twd.wire.job import TokenLogprob

BUDGET_MS: Final = 50.0
"""No step begins after so long: streams, cancelled jobs and other sessions wait no longer."""
_SPARE: Final = 64
_UNKNOWN: Final = 0
_Ints = npt.NDArray[np.int32]
_Doubles = npt.NDArray[np.float64]


@dataclass(slots=True)
class StepText:
    """One text of a run: it goes on behind `tokens`, which is all of it, the last token not yet computed."""

    slot: int
    tokens: Sequence[int]
    output: int
    """The batch index in the first pass of its last token."""
    rule: RuleHolder
    report: ChanceReport | None = None
    least: float = 0.0
    """The run ends when the product of the picks' chances falls below this."""
    repeats: int = 0
    """The run ends when so many last tokens stand earlier in the text; 0: never."""
    picks: list[int] = field(default_factory=list)
    """Comes back: what was picked. -1: the sampler must choose this token, from `asked`."""
    reports: list[TokenLogprob] = field(default_factory=list)
    asked: Logits | None = None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The passes of a run. `later`: the batch of the second pass, in which tokens of texts are not known yet.

    `text_of`: for each row of `later` the number of its text, -1 for padding. `trims`: for each padded slot its end
    after the first pass. `moving`: the slots whose texts go on.
    """

    first: BatchTokens
    later: BatchTokens
    text_of: Sequence[int]
    trims: dict[int, int]
    moving: frozenset[int]
    steps: int


@dataclass(slots=True)
class _Chances:
    """What comes back for each pick of a text that reports."""

    sure: _Doubles
    others: _Ints
    other_sure: _Doubles

    @classmethod
    def of(cls, steps: int) -> Self:
        return cls(np.zeros(steps), np.full(steps, -1, np.int32), np.zeros(steps))


class Stepper:
    """The native loop of one target. For the target's thread only, but for `halt`."""

    def __init__(self, context: Context, halt: AbortFlag) -> None:
        self._context = context
        self._native = NativeSteps(context.handle)
        self._halt = halt
        self._ends = np.zeros(context.model.vocab.size, np.uint8)
        self._ends[list(context.model.vocab.end_tokens)] = 1
        self._texts: dict[int, _Ints] = {}
        """For each slot a copy of its tokens that native code can read."""
        self._known = [0] * context.settings.parallel
        """How many tokens of each copy are up to date."""

    def forget(self, slot: int, position: int) -> None:
        """The tokens of a slot from `position` on are no longer true."""
        self._known[slot] = min(self._known[slot], position)

    def run(self, plan: StepPlan, texts: Sequence[StepText]) -> int:
        """Compute a run. Returns what llama.cpp returned for a pass that failed, else 0; picks come back in `texts`."""
        chances = [_Chances.of(plan.steps) for _ in texts]
        natives = (NativeText * len(texts))(*map(self._native_text, texts, chances))
        first = [np.array(part, np.int32) for part in (plan.first.tokens, plan.first.positions, plan.first.sequences)]
        outputs = np.array(plan.first.outputs, np.int8)
        rows = (NativeRow * len(plan.later))(*_rows(plan))
        trims = (NativeEnd * len(plan.trims))(
            *(NativeEnd(slot, end, slot in plan.moving) for slot, end in plan.trims.items())
        )
        run = NativeRun(
            tokens=first[0].ctypes.data,
            positions=first[1].ctypes.data,
            slots=first[2].ctypes.data,
            outputs=outputs.ctypes.data,
            rows=ctypes.addressof(rows),
            trims=ctypes.addressof(trims),
            texts=ctypes.addressof(natives),
            ends=self._ends.ctypes.data,
            halt=self._halt.address,
            budget_ns=int(BUDGET_MS * 1e6),
            n_first=len(plan.first),
            n_rows=len(plan.later),
            n_trims=len(trims),
            n_texts=len(texts),
            steps=plan.steps,
            there=None if self._context.device_rows is None else self._context.device_rows.handle,
        )
        if self._context.on_pass is not None:
            self._context.on_pass(len(plan.first))
        self._native.run(run)
        if run.code < 0:  # perhaps since logits were not on the device
            self._context.fetch_logits()
        for number, text in enumerate(texts):
            self._read(number, text, natives[number], chances[number], run.done)
        return int(run.code)

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        self._native.close()

    def _native_text(self, text: StepText, chances: _Chances) -> NativeText:
        report = text.report
        return NativeText(
            rule=text.rule.address,
            tokens=self._copy(text).ctypes.data,
            sure=chances.sure.ctypes.data,
            others=chances.others.ctypes.data,
            other_sure=chances.other_sure.ctypes.data,
            least=text.least,
            count=len(text.tokens),
            position=len(text.tokens),
            output=text.output,
            repeats=text.repeats,
            judges=0 if report is None else 1 + report.with_other,
        )

    def _copy(self, text: StepText) -> _Ints:
        """The slot's copy of the text, brought up to date."""
        copy = self._texts.get(text.slot)
        if copy is None:
            settings = self._context.settings
            copy = self._texts[text.slot] = np.zeros(settings.ctx_size + settings.ubatch + _SPARE, np.int32)
        known = self._known[text.slot]
        copy[known : len(text.tokens)] = text.tokens[known:]
        self._known[text.slot] = len(text.tokens)
        return copy

    def _read(self, number: int, text: StepText, native: NativeText, chances: _Chances, done: int) -> None:
        end = len(text.tokens)
        text.picks = self._texts[text.slot][end : end + done].tolist()
        if native.asks:
            row = ctypes.c_float * self._context.model.vocab.size
            text.asked = np.ctypeslib.as_array(row.from_address(self._native.asked(number)))
        if text.report is not None:
            sure = (chances.sure.tolist(), chances.others.tolist(), chances.other_sure.tolist())
            picks = text.picks[: done - native.asks]
            text.reports = [text.report.of_chances(*one) for one in zip(picks, *sure, strict=False)]


def _rows(plan: StepPlan) -> list[NativeRow]:
    later = plan.later
    told = zip(later.sequences, plan.text_of, later.positions, later.outputs, strict=True)
    return [NativeRow(slot, text, at, slot in plan.moving, output) for slot, text, at, output in told]


def later_batch(one: ForwardBatch, ends: dict[int, int]) -> tuple[BatchTokens, list[int]]:
    """The batch of a pass with one token for each text, and the number of the text of each row (-1: padding).

    `ends`: where each slot ends before that pass.
    """
    rows, text_of, count = BatchTokens(), list[int](), 0
    for part in one.parts:
        at = ends[part.slot]
        if part.rows:
            rows.add(part.slot, at, [_UNKNOWN])
            text_of.append(count)
            count += 1
        rows.add(part.slot, at + part.rows, [_UNKNOWN] * part.padding, part.padding)
        text_of += [-1] * part.padding
    return rows, text_of
