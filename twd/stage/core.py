"""Decisions of a stage: which windows to compute, drop or refuse, and on the output stage which tokens are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from twd.decoding.window import Logits, Report, Sampler, VerifyResult, Window, score, verify_window
from twd.ring.frames import ItemOutcome, TokenFit, WindowItem
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.ring import FrameFault

_CODE_OF = {
    FrameFault.NOT_NUMBERS: FailureCode.BACKEND_BROKEN,
    FrameFault.OUT_OF_ORDER: FailureCode.INTERNAL,
    FrameFault.UNKNOWN_SESSION: FailureCode.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class StageLimits:
    """The limits of a stage. `vocabulary` 0: it never looks at tokens."""

    slots: int
    ctx_size: int
    rows_max: int
    vocabulary: int = 0


class SlotEpochs:
    """The epochs of each slot that are over. The owner makes sure that only one thread at a time uses it."""

    def __init__(self) -> None:
        self._alive_from: dict[int, int] = {}

    def invalidate(self, slot: int, below: int) -> None:
        """End all epochs of a slot below `below`; a value lower than an earlier one changes nothing."""
        if below > self._alive_from.get(slot, 0):
            self._alive_from[slot] = below

    def is_dead(self, slot: int, epoch: int) -> bool:
        """Whether this epoch is over, so that its windows are dropped."""
        return epoch < self._alive_from.get(slot, 0)


@dataclass(slots=True)
class FilteredBatch:
    """A pass's items: those to compute, the number of dropped ones, and those refused, with the faults found."""

    live: list[WindowItem] = field(default_factory=list)
    dropped: int = 0
    refused: list[ItemOutcome] = field(default_factory=list)
    faults: list[tuple[FrameFault, str]] = field(default_factory=list)


class RefusedItem(Exception):
    """One window is invalid here; its pass goes on without it."""

    def __init__(self, message: str, fault: FrameFault | None = None, code: FailureCode | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.code = code or (FailureCode.BAD_REQUEST if fault is None else _CODE_OF.get(fault, FailureCode.BAD_REQUEST))


@dataclass(slots=True)
class _Line:
    """A slot's text as the output stage knows it, and what the next window of the same epoch must be."""

    history: list[int] = field(default_factory=list)
    epoch: int = -1
    next_at: int = -1
    pick: int | None = None
    sampler: Sampler | None = None
    report: Report | None = None
    problem: Failure | None = None
    """Why no tokens can be sampled for this session."""
    ends: bool = True
    """Whether the text stops at an end token."""


class StageCore:
    """The sessions of one ring on one stage: where each slot's cache ends, and which slots are open."""

    def __init__(self, bounds: StageLimits, epochs: SlotEpochs, head: "OutputStage | None" = None) -> None:
        self.bounds = bounds
        self.epochs = epochs
        self.head = head
        self._ends = [0] * bounds.slots
        self._open: set[int] = set()

    @property
    def sessions(self) -> int:
        """Number of open sessions."""
        return len(self._open)

    def open(self, slot: int) -> None:
        """Open a session on a slot; the content of its cache stays."""
        self._require_slot(slot)
        self._open.add(slot)

    def close(self, slot: int) -> None:
        """Close a session; harmless when repeated."""
        self._require_slot(slot)
        self._open.discard(slot)

    def copy(self, source: int, target: int) -> None:
        """Record that the target slot's cache is now a copy of the source slot's."""
        self._require_slot(source)
        self._require_slot(target)
        self._ends[target] = self._ends[source]
        if self.head is not None:
            self.head.copy(source, target)

    def end(self, slot: int) -> int:
        """Return the position after a slot's last row in the cache."""
        return self._ends[slot]

    def stands_at(self, slot: int, end: int) -> None:
        """Record that the slot's cache now ends at this position."""
        self._ends[slot] = end

    def sift(self, items: Sequence[WindowItem], finite: Callable[[int], bool]) -> FilteredBatch:
        """Decide for each item of a pass whether to compute, drop or refuse it; `finite` tells whether the states of
        the item with this index are finite numbers."""
        filtered = FilteredBatch()
        slots: set[int] = set()
        for number, item in enumerate(items):
            try:
                self._check(item, slots)
                if self._is_dead(item):
                    filtered.dropped += 1
                    continue
                self._check_place(item)
                if not finite(number):
                    raise RefusedItem("states that are not finite numbers", FrameFault.NOT_NUMBERS)
            except RefusedItem as refusal:
                self._refuse(item, refusal, filtered)
                continue
            self.epochs.invalidate(item.slot, item.epoch)
            filtered.live.append(item)
        return filtered

    def _is_dead(self, item: WindowItem) -> bool:
        if self.epochs.is_dead(item.slot, item.epoch):
            return True
        if self.head is None or self.head.goes_on(item):
            return False
        self.epochs.invalidate(item.slot, item.epoch + 1)
        return True

    def _refuse(self, item: WindowItem, refusal: RefusedItem, filtered: FilteredBatch) -> None:
        """Refuse an item and end its epoch: later windows of the epoch would have nothing before them."""
        if refusal.fault is not None:
            filtered.faults.append((refusal.fault, str(refusal)))
        if item.slot < self.bounds.slots:
            self.epochs.invalidate(item.slot, item.epoch + 1)
        filtered.refused.append(failed(item, refusal.code, str(refusal)))

    def _check(self, item: WindowItem, slots: set[int]) -> None:
        rows, bounds = len(item.tokens), self.bounds
        if item.slot >= bounds.slots or item.slot in slots:
            raise RefusedItem(f"slot {item.slot} of {bounds.slots}, or twice in a pass", FrameFault.OUT_OF_RANGE)
        slots.add(item.slot)
        if item.slot not in self._open:
            raise RefusedItem(f"no session has slot {item.slot}", FrameFault.UNKNOWN_SESSION)
        if rows > bounds.rows_max:
            raise RefusedItem(f"{rows} rows; a pass takes {bounds.rows_max}", FrameFault.TOO_LONG)
        if item.picks and not 1 <= item.committed <= rows:
            raise RefusedItem(f"{item.committed} of {rows} tokens are decided", FrameFault.OUT_OF_RANGE)
        if item.drafts > (rows - item.committed if item.scores and item.goes_on else 0):
            raise RefusedItem(f"{item.drafts} of {rows} tokens are drafts", FrameFault.OUT_OF_RANGE)
        if bounds.vocabulary and max(item.tokens) >= bounds.vocabulary:
            raise RefusedItem(f"token {max(item.tokens)} of {bounds.vocabulary}", FrameFault.OUT_OF_RANGE)

    def _check_place(self, item: WindowItem) -> None:
        known = self._ends[item.slot]
        if self.head is not None:
            problem = self.head.problem(item.slot)
            if problem is not None:
                raise RefusedItem(problem.message, code=problem.code)
            known = min(known, self.head.length(item.slot))
        if item.at > known:
            raise RefusedItem(f"a window at {item.at} leaves a gap after {known}", FrameFault.OUT_OF_ORDER)
        end = item.at + len(item.tokens)
        if end > self.bounds.ctx_size:
            message = f"position {end} is beyond the {self.bounds.ctx_size} tokens of ctx_size"
            raise RefusedItem(message, code=FailureCode.CONTEXT_OVERFLOW)

    def _require_slot(self, slot: int) -> None:
        if slot >= self.bounds.slots:
            raise RefusedItem(f"slot {slot} of {self.bounds.slots}", FrameFault.OUT_OF_RANGE)


class OutputStage:
    """The output stage's part: the texts, and how much of each window is kept."""

    def __init__(self, slots: int, end_tokens: frozenset[int]) -> None:
        self._lines = [_Line() for _ in range(slots)]
        self._end_tokens = end_tokens

    def open(self, slot: int, sampler: Sampler, report: Report | None, *, ends: bool = True) -> None:
        """Set how a session's tokens are sampled and reported; `ends`: the text stops at an end token."""
        line = self._lines[slot]
        line.sampler, line.report, line.problem, line.ends = sampler, report, None, ends

    def cannot_open(self, slot: int, problem: Failure) -> None:
        """Record why a session cannot be opened; its windows are refused with this."""
        self._lines[slot].problem = problem

    def copy(self, source: int, target: int) -> None:
        """Make the target slot's text a copy of the source slot's."""
        self._lines[target].history = list(self._lines[source].history)

    def problem(self, slot: int) -> Failure | None:
        """Return why no tokens can be sampled for a slot; None where they can."""
        return self._lines[slot].problem

    def length(self, slot: int) -> int:
        """Return how many tokens of a slot's text are kept."""
        return len(self._lines[slot].history)

    def text(self, slot: int) -> list[int]:
        """Return the tokens of a slot that are kept."""
        return self._lines[slot].history

    def guessed(self, item: WindowItem, outcome: ItemOutcome) -> Sampler | None:
        """Return the sampler with which to guess what follows a window; None where nothing is to be guessed."""
        line = self._lines[item.slot]
        wanted = item.guesses > 0 and bool(outcome.tokens) and not item.scores
        return line.sampler if wanted and outcome.tokens[-1] not in self._ends(line) else None

    def goes_on(self, item: WindowItem) -> bool:
        """Whether a window continues the kept text: always in a new epoch; else it must begin where the last window
        ended, with the sampled token."""
        line = self._lines[item.slot]
        if item.epoch != line.epoch:
            return item.epoch > line.epoch
        return item.at == line.next_at and (line.pick is None or item.tokens[0] == line.pick)

    def judge(
        self,
        item: WindowItem,
        logits_of: Callable[[int], Logits],
        epochs: SlotEpochs,
        choice_of: Callable[[int, Sampler, Sequence[int]], int | None] | None = None,
    ) -> ItemOutcome:
        """Decide how much of a computed window is kept; unless all of it is, its epoch is over. `choice_of` gives what
        a sampler picks, where that is known without the logits."""
        line = self._lines[item.slot]
        window = _window(item)
        del line.history[item.at :]
        line.epoch, line.next_at, line.pick = item.epoch, item.at + len(item.tokens), None
        if not item.picks:
            line.history += item.tokens
            return ItemOutcome(item.slot, item.epoch, item.at, standing=len(item.tokens))
        try:
            if item.scores:
                return self._scored(line, window, logits_of, epochs)
            verdict = self._walk(line, window, logits_of, choice_of)
        except TwdError as error:
            del line.history[item.at :]
            epochs.invalidate(item.slot, item.epoch + 1)
            return failed(item, error.code, str(error))
        line.pick = verdict.tokens[-1]
        if len(verdict.path) < len(item.tokens) or line.pick in self._ends(line):
            epochs.invalidate(item.slot, item.epoch + 1)
        return ItemOutcome(item.slot, item.epoch, item.at, verdict.tokens, len(verdict.path), verdict.logprobs)

    def _scored(
        self, line: _Line, window: Window, logits_of: Callable[[int], Logits], epochs: SlotEpochs
    ) -> ItemOutcome:
        """Return how well given tokens fit; all of them are kept, and drafts behind them that are right."""
        verdict = VerifyResult(window.slot, window.epoch, window.at)
        if line.sampler is None:
            raise TwdError(FailureCode.INTERNAL, f"no session has slot {window.slot}")
        line.history += window.tokens[: window.committed]
        score(window, verdict, logits_of, line.history, line.sampler, self._ends(line))
        fits = [TokenFit(one.gap, one.logprob, one.entropy) for one in verdict.scores]
        standing = len(verdict.path)
        if window.goes_on:
            line.pick = verdict.tokens[-1]
            if standing < len(window.tokens) or line.pick in self._ends(line):
                epochs.invalidate(window.slot, window.epoch + 1)
        return ItemOutcome(window.slot, window.epoch, window.at, verdict.tokens, standing, scores=fits)

    def _walk(
        self,
        line: _Line,
        window: Window,
        logits_of: Callable[[int], Logits],
        choice_of: Callable[[int, Sampler, Sequence[int]], int | None] | None,
    ) -> VerifyResult:
        verdict, sampler, report = VerifyResult(window.slot, window.epoch, window.at), line.sampler, line.report
        if sampler is None:
            raise TwdError(FailureCode.INTERNAL, f"no session has slot {window.slot}")
        line.history += window.tokens[: window.committed]
        known = None if choice_of is None or report is not None else partial(_choice, choice_of, sampler)
        verify_window(window, verdict, logits_of, line.history, sampler, report, self._ends(line), known)
        return verdict

    def _ends(self, line: _Line) -> frozenset[int]:
        return self._end_tokens if line.ends else frozenset()


def _choice(
    choice_of: Callable[[int, Sampler, Sequence[int]], int | None], sampler: Sampler, node: int, history: Sequence[int]
) -> int | None:
    return choice_of(node, sampler, history)


def _window(item: WindowItem) -> Window:
    return Window(
        item.slot,
        item.epoch,
        item.at,
        tuple(item.tokens),
        picks=item.picks,
        committed=item.committed,
        scores=item.scores,
        ends=item.ends,
        goes_on=item.goes_on,
        drafts=item.drafts,
    )


def failed(item: WindowItem, code: FailureCode, message: str) -> ItemOutcome:
    """Return the outcome of a window that failed."""
    return ItemOutcome(item.slot, item.epoch, item.at, failure=Failure(code=code, message=message[:4096]))
