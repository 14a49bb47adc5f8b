"""The target in this process: it takes the windows of all sessions, computes them and returns the verify results."""

from collections.abc import Callable, Sequence

from twd.decoding.batches import BatchPlanner, BatchRules, ForwardBatch
from twd.decoding.slots import Slots
from twd.decoding.tree import TreeLayout, lay_out
from twd.decoding.window import (
    Logits,
    Report,
    Sampler,
    VerifyResult,
    Window,
    check,
    check_prompt,
    score,
    verify_window,
)
from twd.engine.context import BatchTokens, CacheLayout, Context
from twd.engine.heads.seat import GuessingHead, HeadSeat
from twd.engine.rollback.undo import CellUndo, Undo
from twd.engine.slices.abort import AbortFlag
from twd.engine.steps.binding import steps_available
from twd.engine.steps.seat import StepSeat
from twd.engine.window_job import PADDING_TOKEN, SlotSession, WindowJob, batch_of, failed, want_rows
from twd.wire.failures import FailureCode, TwdError
from twd.wire.prefix import common_prefix


class LocalTarget:
    """A `Target` over one context. All work of a step happens in `collect`, on the caller's thread.

    `rows_min` is the least n_tokens of a batch. With 2, float weights stay exact where llama.cpp computes a batch of
    one token with another kernel. GPUs have different kernels for many batch sizes; there use `fix_rows`.
    `undo` removes rejected tokens from the KV cache. If it removes more than that, the next window computes them again.
    A model that cannot roll back takes no drafts, and reuses a slot only for a prompt that continues the slot's tokens.
    """

    in_flight = 1

    def __init__(
        self,
        context: Context,
        *,
        rows_min: int = 1,
        can_rollback: bool = True,
        undo: Undo | None = None,
        head: GuessingHead | None = None,
    ) -> None:
        settings = context.settings
        self.context = context
        self.n_slots = settings.parallel
        self.ctx_size = settings.ctx_size
        self.window_max = settings.ubatch
        self._undo: Undo = undo or CellUndo(context, padding=can_rollback)
        self.trees = settings.layout is CacheLayout.TREE and can_rollback and self._undo.padding
        self.can_rollback = can_rollback
        self._branches_max = settings.sequences - settings.parallel + 1
        rules = BatchRules(settings.ubatch, settings.layout is CacheLayout.STREAMS, self._undo.padding, rows_min)
        self.planner = BatchPlanner(rules)
        self._fed = [0] * self.n_slots
        cost = context.copy_cost if can_rollback else None
        least_saved = cost.least_saved if cost is not None else None
        self.least_shared = least_saved if isinstance(self._undo, CellUndo) else None
        self._slots = Slots(
            self.n_slots, least_saved, lambda slot, common: self._undo.reach(slot, self._fed[slot], common)
        )
        self._stops: list[list[int]] = [[] for _ in range(self.n_slots)]
        self._sessions: dict[int, SlotSession] = {}
        self._pending: list[Window] = []
        self._end_tokens = context.model.vocab.end_tokens
        self.head = None if self.trees or not can_rollback else HeadSeat.of(head)
        self.halt = AbortFlag()
        plain = not self.trees and self.head is None
        able = steps_available() and plain and context.model.experts is None  # experts are told the tokens of each pass
        self._steps = StepSeat(context, self.planner, self._undo, self._slots, self._fed, self.halt) if able else None
        self.runs_steps = self._steps is not None

    def fix_rows(self, rows: int, together: int = 1) -> None:
        """From now on, compute `rows` tokens of each of `together` slots in every pass. If any token of a pass needs
        logits, all get them."""
        self.window_max = rows
        self.planner.fix_rows(rows, together)

    def use_threads(self, threads: int) -> None:
        """Compute with this number of threads from the next pass on."""
        self.context.use_threads(threads)
        if self.head is not None:
            self.head.use_threads(threads)

    def tell_passes(self, told: Callable[[int], None]) -> None:
        """Call `told` with n_tokens before each pass. One `collect` may need several passes."""
        self.context.on_pass = told

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        """Take a slot for a prompt. Returns the slot and how many prompt tokens its KV cache holds already.

        Raises BUSY or CONTEXT_OVERFLOW before any computing.
        """
        check_prompt(tokens, ctx_size=self.ctx_size)
        place = self._slots.open(tokens, whole_only=not self.can_rollback)
        if place.source is not None:
            fed = self._fed[place.source]
            self._fed[place.slot] = self._undo.copy(place.source, place.slot, fed, place.common)
            if self.head is not None:
                self.head.forget(place.slot)
        native = self.runs_steps or self.context.device_rows is not None
        self._sessions[place.slot] = SlotSession.of(sampler, report, native=native)
        self._rewind(place.slot, place.common)
        self._stops[place.slot] = self._undo.stops(tokens, self._fed[place.slot], place.alike)
        return place.slot, self._fed[place.slot]

    def close(self, slot: int) -> None:
        """End a session. A second call does nothing."""
        if self._sessions.pop(slot, None) is None:
            return
        self._pending = [window for window in self._pending if window.slot != slot]
        del self._slots[slot].tokens[self._fed[slot] :]
        self._slots.close(slot)

    def submit(self, windows: Sequence[Window]) -> None:
        """Queue windows for the next `collect`."""
        self._pending += windows

    def collect(self) -> list[VerifyResult]:
        """Compute all submitted windows and return their verify results. An invalid window fails alone; if a pass
        fails, all windows of that pass fail."""
        verdicts: list[VerifyResult] = []
        pending, self._pending = self._pending, []
        while pending:
            jobs, pending = self._prepare(pending, verdicts)
            if self.trees:
                verdicts += [self._run_tree(job) for job in jobs.values()]
                continue
            shape = tuple((slot, len(jobs[slot].feed)) for slot in sorted(jobs))
            passes = self.planner.plan(shape) if shape else []
            stepped = self._steps.run(passes, jobs, self._sessions) if self._steps is not None else None
            if stepped is not None:
                verdicts += stepped
                continue
            for one in passes:
                verdicts += self._run(one, jobs)
        return verdicts

    def shutdown(self) -> None:
        """Free the context."""
        self._sessions.clear()
        if self.head is not None:
            self.head.close()
        if self._steps is not None:
            self._steps.close()
        self.context.close()

    def _prepare(
        self, windows: list[Window], verdicts: list[VerifyResult]
    ) -> tuple[dict[int, WindowJob], list[Window]]:
        """One job for each slot, and the windows left for the next round (second windows of a slot).

        Failed windows are added to `verdicts`.
        """
        jobs: dict[int, WindowJob] = {}
        later: list[Window] = []
        for window in windows:
            if window.slot in jobs:
                later.append(window)
            elif window.slot in self._sessions:
                try:
                    jobs[window.slot] = self._job(window)
                except TwdError as error:
                    verdicts.append(failed(window, error))
        return jobs, later

    def _job(self, window: Window) -> WindowJob:
        check(window, vocabulary=self.context.model.vocab.size, ctx_size=self.ctx_size, trees=self.trees)
        tokens = self._slots[window.slot].tokens
        if window.at > len(tokens):
            raise TwdError(FailureCode.INTERNAL, f"a window at {window.at} leaves a gap after {len(tokens)}")
        if window.picks and len(window.tokens) - window.committed >= self.window_max:
            raise TwdError(
                FailureCode.INTERNAL, f"a window of more than {self.window_max} tokens does not fit one pass"
            )
        if not self.can_rollback and len(window.tokens) > window.committed and not window.scores:
            raise TwdError(FailureCode.UNSUPPORTED, "this model cannot take tokens back, so it checks no drafts")
        self._rewind(window.slot, window.at)
        at = self._fed[window.slot]
        feed = [*tokens[at:], *window.tokens]
        wanted = len(window.tokens) - window.committed + 1 if window.picks else 1
        stops = self._stops_until(window.slot, at, at + len(feed) - wanted)
        while stops or len(feed) > self.window_max:
            count = min(self.window_max, len(feed) - wanted, *(stop - at for stop in stops[:1]))
            if count:
                self._feed(window.slot, at, feed[:count])
                at, feed = at + count, feed[count:]
            if stops and stops[0] == at:
                self._undo.keep(window.slot, stops.pop(0))
        return WindowJob(window, at, feed)

    def _stops_until(self, slot: int, at: int, end: int) -> list[int]:
        """The positions from `at` to `end` at which to save the state. Later positions are kept for later windows."""
        wanted = self._stops[slot]
        if not wanted:
            return []
        self._stops[slot] = [stop for stop in wanted if stop > end]
        return [stop for stop in wanted if at <= stop <= end]

    def _rewind(self, slot: int, position: int) -> None:
        """Go back to `position` in a slot. If the cache cannot stop exactly there, older tokens are computed again."""
        del self._slots[slot].tokens[position:]
        if self._steps is not None:
            self._steps.forget(slot, position)
        if self._fed[slot] > position:
            self._fed[slot] = position
            self._settle(slot)

    def _feed(self, slot: int, at: int, tokens: list[int]) -> None:
        """Compute tokens of one slot without logits, only to fill the KV cache."""
        job = WindowJob(Window(slot, 0, at, tuple(tokens), picks=False), at, tokens)
        rows, starts, ends = self._compute(self.planner.alone(slot, len(tokens)), {slot: job})
        if self.head is not None:
            self.head.read(slot, at, tokens, rows, starts[slot])
        self._fed[slot] = at + len(tokens)
        self._settle_all(ends)

    def _compute(self, one: ForwardBatch, jobs: dict[int, WindowJob]) -> tuple[int, dict[int, int], dict[int, int]]:
        """Compute one forward pass. Returns its n_tokens; for each slot the index of its first token in the batch, and
        its end position, padding included. If the pass fails, nothing of it is left in the KV cache."""
        rows, starts, ends = batch_of(one, jobs, self._fed)
        for part in one.parts:
            if part.rows:
                self._undo.before(part.slot, self._fed[part.slot], part.rows, jobs[part.slot].drafts)
        try:
            self._decode(rows)
        except TwdError:
            for part in one.parts:
                self._fed[part.slot] = self._undo.repair(part.slot, self._fed[part.slot])
            raise
        return len(rows), starts, ends

    def _run(self, one: ForwardBatch, jobs: dict[int, WindowJob]) -> list[VerifyResult]:
        """Compute one forward pass over some slots and return the verify results of their windows."""
        active = [jobs[part.slot] for part in one.parts if part.rows]
        try:
            rows, starts, ends = self._compute(one, jobs)
        except TwdError as error:
            return [failed(job.window, error) for job in active]
        began = {job.window.slot: self._fed[job.window.slot] for job in active}
        verdicts = [self._judge(job, starts[job.window.slot] + job.before) for job in active]
        if self.head is not None:
            for verdict in verdicts:
                self._read(self.head, verdict, began[verdict.slot], rows, starts[verdict.slot])
        self._settle_all(ends)
        for verdict in verdicts:
            verdict.replay = len(self._slots[verdict.slot].tokens) - self._fed[verdict.slot]
        if self.head is not None:
            for job, verdict in zip(active, verdicts, strict=True):
                self._guess(self.head, job.window, verdict)
        return verdicts

    def _read(self, head: HeadSeat, verdict: VerifyResult, begin: int, rows: int, start: int) -> None:
        """Let the head read the tokens of a window that count. `start`: the first of them in the batch of `rows`."""
        tokens = self._slots[verdict.slot].tokens[begin : self._fed[verdict.slot]]
        verdict.aside_ms += head.read(verdict.slot, begin, tokens, rows, start)

    def _guess(self, head: HeadSeat, window: Window, verdict: VerifyResult) -> None:
        """Let the head guess what follows the token that was picked."""
        ends = not verdict.tokens or verdict.tokens[-1] in self._end_tokens
        if not window.guesses or ends or verdict.failure is not None or verdict.scores:
            return
        text = [*self._slots[verdict.slot].tokens, verdict.tokens[-1]]
        head.guess(verdict, text, window.guesses, self._sessions[verdict.slot].sampler, window.least)

    def _decode(self, rows: BatchTokens) -> None:
        want_rows(rows, self.planner.rules)
        self.context.decode(rows)

    def _judge(self, job: WindowJob, first_row: int) -> VerifyResult:
        """Verify a computed window. The caller removes rejected tokens from the KV cache afterwards."""
        return self._verdict(job.window, lambda node: first_row + node)

    def _verdict(self, window: Window, row_of: Callable[[int], int]) -> VerifyResult:
        """`row_of`: the batch index of a token of the window."""
        tokens, session = self._slots[window.slot].tokens, self._sessions[window.slot]
        verdict = VerifyResult(window.slot, window.epoch, window.at)

        def logits_of(node: int) -> Logits:
            return self.context.logits(row_of(node))

        choice_of = self._choice_of(session, row_of)
        tokens += window.tokens[: window.committed] if window.picks else window.tokens
        try:
            if window.scores:
                score(window, verdict, logits_of, tokens, session.sampler, self._end_tokens)
            elif window.picks:
                report, ends = session.report, self._end_tokens
                verify_window(window, verdict, logits_of, tokens, session.sampler, report, ends, choice_of)
            else:
                verdict.path = list(range(len(window.tokens)))
        except TwdError as error:
            del tokens[window.at :]
            verdict = failed(window, error)
        self._fed[window.slot] = len(tokens)
        return verdict

    def _choice_of(
        self, session: SlotSession, row_of: Callable[[int], int]
    ) -> Callable[[int, Sequence[int]], int | None] | None:
        """What tells a session's pick behind a token of its window without the logits; None: nothing does."""
        rule, choice = session.rule, self.context.choice
        if rule is None or session.report is not None or self.context.device_rows is None:
            return None
        return lambda node, history: choice(row_of(node), rule, history)

    def _run_tree(self, job: WindowJob) -> VerifyResult:
        """Compute and verify a draft tree in one pass.

        Only the likeliest branch keeps its KV cells. Cells of other branches lie at other places than they would
        without a tree, so accepted tokens of another branch are computed again with the next window.
        """
        window = job.window
        try:
            layout = lay_out(window.parents or range(-1, len(window.tokens) - 1), self._branches_max)
            rows, row_of = self._tree_rows(job, layout)
            for branch in range(1, layout.branches):
                self.context.copy(window.slot, branch)
            try:
                self._decode(rows)
            finally:
                for branch in range(1, layout.branches):
                    self.context.clear(branch)
        except TwdError as error:
            self._settle(window.slot)
            return failed(window, error)
        verdict = self._verdict(window, row_of.__getitem__)
        self._fed[window.slot] -= len(verdict.path) - common_prefix(verdict.path, layout.main)
        self._settle(window.slot)
        return verdict

    def _tree_rows(self, job: WindowJob, layout: TreeLayout) -> tuple[BatchTokens, dict[int, int]]:
        """The batch of a draft tree in decode order, and the batch index of each token of the window."""
        rows, row_of, window = BatchTokens(), {}, job.window
        for index in range(job.before):
            rows.add_shared(range(layout.branches), job.at + index, job.feed[index], output=False)
        for node in layout.nodes:
            if window.at + node.depth < job.at:
                continue
            row_of[node.index] = len(rows)
            output = window.picks and node.index >= window.committed - 1
            rows.add_shared(node.branches, window.at + node.depth, window.tokens[node.index], output=output)
        padding = [PADDING_TOKEN] * self.planner.missing(len(rows))
        rows.add(window.slot, window.at + len(layout.main), padding, len(padding))
        return rows, row_of

    def _settle_all(self, ends: dict[int, int]) -> None:
        """Remove padding and rejected tokens of a pass. `ends`: where each slot ended behind it."""
        for slot, end in ends.items():
            if end > self._fed[slot]:
                self._settle(slot)

    def _settle(self, slot: int) -> None:
        """Remove rejected tokens from the KV cache. If more is removed, it is computed again later."""
        self._fed[slot] = self._undo.back(slot, self._fed[slot])
