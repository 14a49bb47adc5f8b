"""The thread that owns a draft model: it drafts for all sessions at once and never waits for the target's results."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from twd.decoding.cost import CostCurve
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

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop after the running step; returns whether the thread ended in time."""
        self._stopping = True
        self._inbox.put(lambda core: None)
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
        if sum(len(window.tokens) for _, window in steps) == 1:
            self._choose_threads(spent_ms)
        if self._cost is not None and all(window.committed == 1 for _, window in steps):
            self._cost.observe(sum(len(window.tokens) for _, window in steps), spent_ms)
        for draft, window in steps:
            verdict = verdicts.get(window.slot)
            if verdict is None or verdict.failure is not None:
                self._core.close(draft.session)  # this session goes on without our drafts
                continue
            self._core.computed(draft, window, _guesses(verdict), spent_ms)

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

        def report(logits: Logits, token: int) -> TokenLogprob:
            guess = self._judge(conformed(logits), token, not draft.beside)
            other = TopToken(token=max(0, guess.other), text="", logprob=guess.other_confidence)
            top = [other] if guess.other >= 0 else []
            return TokenLogprob(token=token, text="", logprob=guess.confidence, top=top)

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


def _as_they_are(logits: Logits) -> Logits:
    return logits


def _guesses(verdict: VerifyResult) -> list[Guess]:
    """Returns the drafts that `report` recorded, as the core needs them."""
    return [_guess(said) for said in verdict.logprobs]


def _guess(said: TokenLogprob) -> Guess:
    if not said.top:
        return Guess(said.token, said.logprob)
    return Guess(said.token, said.logprob, said.top[0].token, said.top[0].logprob)
