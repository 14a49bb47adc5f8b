"""What a target computes for one window, and the batch of a pass over several of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from twd.decoding.batches import BatchRules, ForwardBatch
from twd.decoding.steps import ChanceReport, RuledSampler
from twd.decoding.window import Report, Sampler, VerifyResult, Window
from twd.engine.context import BatchTokens
from twd.engine.steps.binding import RuleHolder
from twd.wire.failures import TwdError

PADDING_TOKEN: Final = 0


@dataclass(frozen=True, slots=True)
class SlotSession:
    """What a session brings to its slot."""

    sampler: Sampler
    report: Report | None
    rule: RuleHolder | None
    """How native code can choose its tokens; None: it cannot."""

    @classmethod
    def of(cls, sampler: Sampler, report: Report | None, *, native: bool) -> Self:
        """`native`: whether native code could choose, if the sampler and the report allow it."""
        able = native and (report is None or isinstance(report, ChanceReport))
        rule = sampler.rule if able and isinstance(sampler, RuledSampler) else None
        return cls(sampler, report, None if rule is None else RuleHolder(rule))


@dataclass(frozen=True, slots=True)
class WindowJob:
    """A window and the tokens to compute for it: first older tokens that are not in the KV cache, then its own.

    `at` is the position of the first token of `feed`.
    """

    window: Window
    at: int
    feed: list[int]

    @property
    def before(self) -> int:
        """The index in `feed` of the window's first token; negative if a part of the window is computed already."""
        return len(self.feed) - len(self.window.tokens)

    @property
    def drafts(self) -> int:
        """How many tokens of `feed` are drafts, which may have to be rolled back."""
        return len(self.window.tokens) - self.window.committed if self.window.picks else 0

    @property
    def output_from(self) -> int:
        """The index in `feed` of the first token whose logits are needed; the length of `feed` if none are."""
        return self.before + self.window.committed - 1 if self.window.picks else len(self.feed)

    @property
    def steps(self) -> int:
        """How many tokens may be picked in one call."""
        window = self.window
        plain = window.picks and not window.scores and window.committed == len(window.tokens)
        return window.steps if plain else 1


def batch_of(
    one: ForwardBatch, jobs: Mapping[int, WindowJob], fed: Sequence[int]
) -> tuple[BatchTokens, dict[int, int], dict[int, int]]:
    """The batch of a pass; for each slot the index of its first token in the batch; for each slot its end position,
    padding included. `fed`: where each slot ends now."""
    rows, starts, ends = BatchTokens(), {}, {}
    for part in one.parts:
        slot, at = part.slot, fed[part.slot]
        starts[slot] = len(rows)
        if part.rows:
            rows.add(slot, at, jobs[slot].feed, jobs[slot].output_from)
            at += part.rows
        if part.padding:
            rows.add(slot, at, [PADDING_TOKEN] * part.padding, part.padding)
        ends[slot] = at + part.padding
    return rows, starts, ends


def want_rows(rows: BatchTokens, rules: BatchRules) -> None:
    """Want logits of more rows where the kernels of a pass depend on how many are wanted."""
    if rules.rows_fixed and any(rows.outputs):
        rows.outputs = [True] * len(rows)
    elif rules.rows_min > 1 and len(rows) > 1 and sum(rows.outputs) == 1:
        rows.outputs[rows.outputs.index(False)] = True


def failed(window: Window, error: TwdError) -> VerifyResult:
    """The result of a window that failed."""
    return VerifyResult(window.slot, window.epoch, window.at, failure=error.failure)
