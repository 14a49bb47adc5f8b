"""The thread that owns a draft model: it drafts for all sessions at once and never waits for the target's results."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from twd.decoding.cost import CostCurve
from twd.decoding.steps import RunsSteps
from twd.decoding.turns import Wait, WaitForPass, WaitForPost
from twd.decoding.window import ConformingSampler, Logits, Target, UsesThreads, VerifyResult, Window
from twd.drafter.core import DrafterCore
from twd.drafter.draft import DraftState, Guess
from twd.drafter.thread_choice import ThreadChoice
from twd.wire.draft import DraftProposed
from twd.wire.failures import TwdError
from twd.wire.job import TokenLogprob, TopToken

Command = Callable[[DrafterCore], None]
Judge = Callable[[Logits, int, bool], Guess]
"""logits, the chosen token, whether a second choice is wanted -> the draft with its confidence"""
INBOX_MAX = 4096


class DraftRunner:
    """Passes commands to the core, runs its steps, and hands out its drafts."""

    def __init__(
        self,
        core: DrafterCore,
        target: Target,
        judge: Judge,
        deliver: Callable[[list[DraftProposed]], None],
        failed: Callable[[BaseException], None],
        lost: Callable[[], None],
        cost: CostCurve | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._core = core
        self._target = target
        self._judge = judge
        self._deliver = deliver
        self._failed = failed
        self._lost = lost
        self._cost = cost
        self._clock = clock
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.choice: ThreadChoice | None = None
        """The choice of the number of threads; None: it is fixed."""
        self._dropped = False
        """True: a command was dropped, so all sessions must be opened again."""
        self._stopping = False
        self._halt = target.halt if isinstance(target, RunsSteps) else None
        """Ends several steps in one call early: what is posted is read after the step that computes now."""
        self.under_way: float | None = None
        """When the current step began; None: no step runs."""
        self._thread = threading.Thread(target=self._main, name="draft-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, command: Command) -> None:
        """Run a command on the engine's thread; it is dropped when too many wait."""
        if self._inbox.qsize() >= INBOX_MAX:
            self._dropped = True
            return
        self._inbox.put(command)
        if self._halt is not None:
            self._halt.set()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop after the running step; returns whether the thread ended in time."""
        self._stopping = True
        self._inbox.put(lambda core: None)
        if self._halt is not None:
            self._halt.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            for wait in self.turns():
                if (
                    isinstance(wait, WaitForPost) and not self._stopping
                ):  # the command that wakes it may have been read before this wait
                    self._inbox.get()(self._core)
        except BaseException as error:  # noqa: BLE001 - handed to the service, which ends with it
            self._failed(error)
        finally:
            self._target.shutdown()

    def turns(self) -> Iterator[Wait]:
        """Draft step by step until told to stop; yields what to wait for."""
        while not self._stopping:
            if self._halt is not None:
                self._halt.clear()  # what is posted from here on ends the next run
            self._read_inbox()
            if self._core.take_lost() or self._dropped:
                self._dropped = False
                self._lost()
            for slot in self._core.released():
                self._target.close(slot)
            for draft in self._core.waiting():
                self._open(draft)
            steps = self._core.plan()
            began = self._clock()
            if steps:
                self._target.submit([window for _, window in steps])
            self._send()
            if not steps:
                yield WaitForPost()
                continue
            yield WaitForPass(len(steps))
            self._collect(steps, began)

    def _collect(self, steps: Sequence[tuple[DraftState, Window]], began: float) -> None:
        self.under_way = began
        verdicts = {verdict.slot: verdict for verdict in self._target.collect()}
        self.under_way = None
        spent_ms = (self._clock() - began) * 1000
        self._learn_pace(steps, _passes(steps, verdicts), spent_ms)
        for draft, window in steps:
            verdict = verdicts.get(window.slot)
            if verdict is None or verdict.failure is not None:
                self._core.close(draft.session)  # this session goes on without our drafts
                continue
            self._core.computed(draft, window, _guesses(verdict), spent_ms)

    def _learn_pace(self, steps: Sequence[tuple[DraftState, Window]], passes: int, spent_ms: float) -> None:
        """Learn from the time of a pass, or of several. A pass that mostly read text shows nothing."""
        rows = sum(len(window.tokens) for _, window in steps)
        if rows > len(steps) * passes:  # with copies, or the first pass read more than one token
            if self._cost is not None and all(window.committed == 1 for _, window in steps):
                self._cost.observe(rows, spent_ms)
            return
        if len(steps) == 1:
            self._choose_threads(spent_ms / passes)
        if self._cost is not None:
            self._cost.observe(len(steps), spent_ms / passes)

    def use_threads(self, choice: ThreadChoice) -> None:
        """Use the planned number of threads and then find the fastest; call it on the engine's thread."""
        if isinstance(self._target, UsesThreads):
            self.choice = choice
            self._target.use_threads(choice.now)

    def _choose_threads(self, step_ms: float) -> None:
        """Take the time of a step of one row; the next one may use another number of threads."""
        if self.choice is None or not isinstance(self._target, UsesThreads):
            return
        before, now = self.choice.now, self.choice.observe(step_ms)
        if now != before:
            self._target.use_threads(now)

    def _open(self, draft: DraftState) -> None:
        conformed = draft.sampler.conformed if isinstance(draft.sampler, ConformingSampler) else _as_they_are
        report = GuessReport(self._judge, conformed, with_other=not draft.beside)
        try:
            slot, cached = self._target.open(draft.accepted, draft.sampler, report)
        except TwdError:
            self._core.close(draft.session)
            return
        self._core.opened(draft, slot, cached)

    def _send(self) -> None:
        proposals = self._core.proposals()
        if proposals:
            self._deliver(proposals)

    def _read_inbox(self) -> None:
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                return
            command(self._core)


class GuessReport:
    """Reports how sure a draft model is of its picks, in the form of log probabilities: `logprob` is a chance here."""

    def __init__(self, judge: Judge, conformed: Callable[[Logits], Logits], *, with_other: bool) -> None:
        self.with_other = with_other
        self._judge = judge
        self._conformed = conformed

    def __call__(self, logits: Logits, token: int) -> TokenLogprob:
        """The report of a token picked from these logits."""
        guess = self._judge(self._conformed(logits), token, self.with_other)
        return self.of_chances(token, guess.confidence, guess.other, guess.other_confidence)

    def of_chances(self, token: int, chance: float, other: int, other_chance: float) -> TokenLogprob:
        """The report of a token whose chance is known."""
        top = [TopToken(token=other, text="", logprob=other_chance)] if other >= 0 else []
        return TokenLogprob(token=token, text="", logprob=chance, top=top)


def _passes(steps: Sequence[tuple[DraftState, Window]], verdicts: Mapping[int, VerifyResult]) -> int:
    """Returns how many passes one after the other gave these results."""
    plain = (window for _, window in steps if len(window.tokens) == window.committed)
    return max([1, *(len(verdicts[window.slot].tokens) for window in plain if window.slot in verdicts)])


def _as_they_are(logits: Logits) -> Logits:
    return logits


def _guesses(verdict: VerifyResult) -> list[Guess]:
    """Returns the drafts that `report` recorded, as the core needs them."""
    return [_guess(said) for said in verdict.logprobs]


def _guess(said: TokenLogprob) -> Guess:
    if not said.top:
        return Guess(said.token, said.logprob)
    return Guess(said.token, said.logprob, said.top[0].token, said.top[0].logprob)
