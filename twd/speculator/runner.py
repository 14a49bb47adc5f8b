"""The thread that owns the target: it feeds the core, runs the passes and passes effects to the event loop.

The core lives on this thread, so nothing waits for the event loop between two passes. Drafts and jobs come in through
an inbox; accepted tokens go out while the next pass already computes.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from twd.decoding.cost import CostCurve
from twd.decoding.pipeline import PipelinedTarget
from twd.decoding.steps import RunsSteps
from twd.decoding.turns import Wait, WaitForPass, WaitForPost
from twd.decoding.window import ReportsPasses, Target, VerifyResult, Window
from twd.kit.effects import Effect
from twd.speculator.core.batch_planning import NextStep
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.session import Session
from twd.speculator.targets.decode_watchdog import PassTimes
from twd.wire.failures import TwdError

Command = Callable[[SpeculatorCore, float], None]
Post = Callable[[Command], None]
"""Runs a command on the engine's thread."""
Deliver = Callable[[list[Effect]], None]

INBOX_MAX = 4096
_LONGEST_WAIT_S = 3600.0

log = logging.getLogger("twd.speculator")


class Runner:
    """Owns one target and the core that decides for it."""

    def __init__(
        self,
        core: SpeculatorCore,
        target: Target,
        cost: CostCurve,
        deliver: Deliver,
        failed: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
        shared_cost: CostCurve | None = None,
    ) -> None:
        """`cost` learns from passes of one session, `shared_cost` from those that several sessions share."""
        self._core = core
        self._target = target
        self._cost, self._shared_cost = cost, shared_cost
        self._deliver = deliver
        self._failed = failed
        self._clock = clock
        self._inbox: queue.SimpleQueue[tuple[Command, float]] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._generation = 0
        self._heard = False
        """True: something was posted in the middle of a turn, so there may be more results to collect."""
        self.busy_since: float | None = None
        """When the current work began, in seconds of the clock; None: no work. It may take several passes."""
        self.busy_rows = 0
        """The rows of that work."""
        self.pace = PassTimes()
        """The times of passes, to detect a device that hangs."""
        self._halt = target.halt if isinstance(target, RunsSteps) else None
        """Ends a call for several tokens early."""
        self._tells_passes = isinstance(target, ReportsPasses)
        if isinstance(target, ReportsPasses):
            target.tell_passes(lambda rows: self.pace.begins(rows, self._clock()))
        self._timed: tuple[Sequence[Window], float] | None = None
        """The windows of a pass that shows what such passes cost, and when they left."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, command: Command, *, droppable: bool = False) -> None:
        """Run a command on the engine's thread. A `droppable` command is dropped when too many wait."""
        if droppable and self._inbox.qsize() >= INBOX_MAX:
            return
        self._put(command)

    def _put(self, command: Command) -> None:
        """Put a command with the current time: it may be read only after the pass, but arrival times count from
        here."""
        self._inbox.put((command, self._clock()))
        if self._halt is not None:
            self._halt.set()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop after the running pass; returns whether the thread ended in time."""
        self._stopping = True
        self._put(_nothing)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - handed to the service, which ends with it
            self._failed(error)
        finally:
            self._target.shutdown()

    def _work(self) -> None:
        try:
            for wait in self.turns():
                if (
                    isinstance(wait, WaitForPost) and not self._stopping
                ):  # the command that wakes it may have been read before this wait
                    self._rest(wait.seconds)
        finally:
            self._read_inbox()  # commands posted before the stop still run, so that every job gets its end event
            self._flush()

    def turns(self) -> Iterator[Wait]:
        """Work turn by turn until told to stop; yields what to wait for."""
        return self._pipe_turns(self._target) if isinstance(self._target, PipelinedTarget) else self._pass_turns()

    def _pipe_turns(self, target: PipelinedTarget) -> Iterator[Wait]:
        """Each turn collects results and sends the next windows. What arrives later is posted and ends the wait."""
        target.on_ready(lambda: self._put(_nothing))
        while not self._stopping:
            self._read_inbox()
            self._heard = False
            wake_at = self._pipe_turn(target)
            self._flush()
            if not self._heard:
                yield WaitForPost(None if wake_at is None else max(0.0, wake_at - self._clock()))

    def _pipe_turn(self, target: PipelinedTarget) -> float | None:
        """Run one turn. Returns until when to wait if nothing arrives; None: no time limit."""
        generation = target.generation()
        if generation != self._generation:
            self._generation = generation
            self._core.replay()
        verdicts = target.collect()
        if verdicts:
            self._core.verdicts(verdicts, self._clock())
            self._flush()
            self._heard = self._read_inbox()  # drafters in this process have sent their drafts by now
        self._close_slots()
        if not generation:
            return None
        now = self._clock()
        for session in self._core.admit(now):
            self._open(session, now)
        while (plan := self._core.plan(self._clock())).windows:
            target.submit(plan.windows)
        self._close_slots()
        return plan.wake_at

    def _pass_turns(self) -> Iterator[Wait]:
        while not self._stopping:
            if self._halt is not None:
                self._halt.clear()  # what is posted from here on ends the next call after one step
            self._read_inbox()
            now = self._clock()
            for session in self._core.admit(now):
                self._open(session, now)
            plan = self._core.plan(now)
            if plan.windows:
                self._submit(plan)
            if plan.under_way:
                yield WaitForPass(plan.rows)
                self._collect()
            self._close_slots()
            self._flush()
            if not plan.under_way and not self._has_work():
                yield WaitForPost(None if plan.wake_at is None else max(0.0, plan.wake_at - self._clock()))

    def _has_work(self) -> bool:
        shares = self._core.sharing if self._core.sessions else 0
        return len(self._core.queue) > shares and len(self._core.sessions) < self._target.n_slots

    def _open(self, session: Session, now: float) -> None:
        try:
            slot, cached = self._target.open(session.tokens, session.sampler, session.report)
        except TwdError as error:
            self._core.fail_job(session.job.job, error.failure, now)
            return
        self._core.opened(session, slot, cached, now)

    def _submit(self, plan: NextStep) -> None:
        self.busy_rows = plan.rows
        began = self.busy_since = self._clock()
        if not self._tells_passes:
            self.pace.begins(plan.rows, began)
        self._timed = (plan.windows, began) if _shows_cost(plan.windows) else None
        self._target.submit(plan.windows)
        self._flush()

    def _collect(self) -> None:
        verdicts = self._target.collect()
        self.busy_since = None
        self.pace.ends(self._clock())
        self._read_inbox()  # drafts that arrived during the pass are judged by its result
        now = self._clock()
        self._learn_cost(verdicts, now)
        self._core.verdicts(verdicts, now)

    def _learn_cost(self, verdicts: Sequence[VerifyResult], now: float) -> None:
        if self._timed is None:
            return
        windows, began = self._timed
        window, cost = windows[0], self._cost if len(windows) == 1 else self._shared_cost
        if any((one.slot, one.epoch, one.at) == (window.slot, window.epoch, window.at) for one in verdicts):
            aside_ms = sum(one.aside_ms for one in verdicts)
            passes = max(len(one.tokens) for one in verdicts) if window.steps > 1 else 1
            rows = len(windows) * max(len(one.tokens) for one in windows)
            if cost is not None:
                cost.observe(rows, ((now - began) * 1000 - aside_ms) / max(1, passes))
            self._timed = None

    def _close_slots(self) -> None:
        for slot in self._core.released():
            self._target.close(slot)

    def _read_inbox(self) -> bool:
        """Run the posted commands; returns whether there were any."""
        for count in range(INBOX_MAX):
            try:
                command, posted = self._inbox.get_nowait()
            except queue.Empty:
                return count > 0
            command(self._core, posted)
        return True

    def _rest(self, seconds: float | None) -> None:
        try:
            command, posted = self._inbox.get(timeout=_LONGEST_WAIT_S if seconds is None else seconds)
        except queue.Empty:
            return
        command(self._core, posted)

    def _flush(self) -> None:
        effects = self._core.effects()
        if effects:
            self._deliver(effects)


def _shows_cost(windows: Sequence[Window]) -> bool:
    """Returns whether a pass shows what its rows cost: one window, or several of which none reads a prompt. Shorter
    ones are padded then."""
    return all(window.picks and (len(windows) == 1 or window.committed == 1) for window in windows)


def _nothing(core: SpeculatorCore, now: float) -> None:
    """Do nothing: the command only wakes the thread."""
