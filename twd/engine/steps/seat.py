"""The place of the native loop in a target: which windows it computes, and what becomes of its picks."""

from collections.abc import Mapping, Sequence

from twd.decoding.batches import BatchPlanner, ForwardBatch
from twd.decoding.slots import Slots
from twd.decoding.steps import ChanceReport
from twd.decoding.window import VerifyResult, Window
from twd.engine.context import Context, decode_error
from twd.engine.rollback.undo import Undo
from twd.engine.slices.abort import AbortFlag
from twd.engine.steps.stepper import Stepper, StepPlan, StepText, later_batch
from twd.engine.window_job import SlotSession, WindowJob, batch_of, failed, want_rows
from twd.wire.failures import FailureCode, TwdError

Jobs = Mapping[int, WindowJob]
Sessions = Mapping[int, SlotSession]


class StepSeat:
    """Computes windows of several steps. It shares the slots of its target, and how far each is computed (`fed`)."""

    def __init__(
        self, context: Context, planner: BatchPlanner, undo: Undo, slots: Slots, fed: list[int], halt: AbortFlag
    ) -> None:
        self._stepper = Stepper(context, halt)
        self._ctx_size = context.settings.ctx_size
        self._planner = planner
        self._undo = undo
        self._slots = slots
        self._fed = fed

    def forget(self, slot: int, position: int) -> None:
        """The tokens of a slot from `position` on are no longer true."""
        self._stepper.forget(slot, position)

    def close(self) -> None:
        """Free the memory."""
        self._stepper.close()

    def run(self, passes: Sequence[ForwardBatch], jobs: Jobs, sessions: Sessions) -> list[VerifyResult] | None:
        """Compute all jobs in one call and return the verify results. None: they need a call for each step."""
        steps = self._steps(jobs, sessions)
        if steps < 2 or len(passes) != 1:
            return None
        each = self._planner.plan(tuple((slot, 1) for slot in sorted(jobs)))
        return self._run(passes[0], each[0], jobs, sessions, steps) if len(each) == 1 else None

    def _steps(self, jobs: Jobs, sessions: Sessions) -> int:
        """How many tokens each session may get in one call."""
        if any(job.steps < 2 or sessions[slot].rule is None for slot, job in jobs.items()):
            return 1
        room = [self._ctx_size + 1 - job.window.at - len(job.window.tokens) for job in jobs.values()]
        return min([*room, *(job.steps for job in jobs.values())], default=1)

    def _run(
        self, one: ForwardBatch, step: ForwardBatch, jobs: Jobs, sessions: Sessions, steps: int
    ) -> list[VerifyResult]:
        rows, starts, _ = batch_of(one, jobs, self._fed)
        parts = (*one.parts, *step.parts)
        ends = {part.slot: self._fed[part.slot] for part in parts}
        for slot, job in jobs.items():
            ends[slot] += len(job.feed)
            self._undo.before(slot, self._fed[slot], len(job.feed), 0)
            self._slots[slot].tokens += job.window.tokens
        later, text_of = later_batch(step, ends)
        for batch in (rows, later):
            want_rows(batch, self._planner.rules)
        trims = {part.slot: ends[part.slot] for part in parts if part.padding}
        plan = StepPlan(rows, later, text_of, trims, frozenset(jobs), steps)
        texts = [self._text(jobs[slot], sessions[slot], starts[slot]) for slot in sorted(jobs)]
        failure = self._compute(plan, texts)
        for slot in trims.keys() - jobs.keys() if failure is not None else ():
            self._fed[slot] = self._undo.repair(slot, self._fed[slot])
        return [self._verdict(jobs[text.slot].window, sessions[text.slot], text, failure) for text in texts]

    def _text(self, job: WindowJob, session: SlotSession, start: int) -> StepText:
        window = job.window
        assert session.rule is not None
        report = session.report if isinstance(session.report, ChanceReport) else None
        tokens, output = self._slots[window.slot].tokens, start + len(job.feed) - 1
        return StepText(window.slot, tokens, output, session.rule, report, window.least, window.repeats)

    def _compute(self, plan: StepPlan, texts: Sequence[StepText]) -> TwdError | None:
        try:
            code = self._stepper.run(plan, texts)
        except TwdError as error:
            return error
        return decode_error(code, len(plan.first)) if code else None

    def _verdict(self, window: Window, session: SlotSession, text: StepText, failure: TwdError | None) -> VerifyResult:
        """The result of a window. What was picked before a pass failed counts."""
        slot, tokens = window.slot, self._slots[window.slot].tokens
        verdict = VerifyResult(slot, window.epoch, window.at, text.picks, list(range(window.committed)), text.reports)
        tokens += text.picks[:-1]
        try:
            if not text.picks:
                raise failure or TwdError(FailureCode.INTERNAL, "a run of steps gave no token")
            if text.asked is not None:
                _choose(verdict, session, text, tokens)
        except TwdError as error:
            del tokens[window.at :]
            verdict = failed(window, error)
        self._stepper.forget(slot, len(tokens))
        self._fed[slot] = len(tokens)
        if failure is not None or verdict.failure is not None:
            self._fed[slot] = self._undo.repair(slot, len(tokens))
        elif len(text.picks) > 1:
            self._undo.before(slot, len(tokens) - 1, 1, 0)  # the last pass had one token
        verdict.replay = len(tokens) - self._fed[slot]
        return verdict


def _choose(verdict: VerifyResult, session: SlotSession, text: StepText, tokens: Sequence[int]) -> None:
    """Let the sampler choose the last token, which native code left to it."""
    assert text.asked is not None
    verdict.tokens[-1] = session.sampler.pick(text.asked, tokens)
    if session.report is not None:
        verdict.logprobs.append(session.report(text.asked, verdict.tokens[-1]))
