"""The target whose model runs on a ring of stages: sends windows of all sessions as passes, returns results of
verification."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import msgspec

from twd.decoding.pipeline import PipelineState
from twd.decoding.slots import CopyCost, Slots
from twd.decoding.window import Report, Sampler, Score, VerifyResult, Window, check, check_prompt
from twd.engine.context import Logits
from twd.engine.slices.undo import UNLIMITED
from twd.ring.driver import PassAnswer, RingDriver
from twd.ring.frames import Close, Copy, ItemOutcome, Open, PassFrame, PassResults, SessionSpec, StageTiming, WindowItem
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import TokenLogprob


class RemoteSpecSampler:
    """The sampler of a session as a description for the output stage, which samples."""

    def __init__(self, spec: SessionSpec) -> None:
        self.spec = spec

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """Always raises: only the output stage does this."""
        raise TwdError(FailureCode.INTERNAL, "over a ring the last stage picks")


class RemoteSpecReport:
    """How many alternative tokens the output stage reports with each token."""

    def __init__(self, top: int) -> None:
        self.top = top

    def __call__(self, logits: Logits, token: int) -> TokenLogprob:
        """Always raises: only the output stage does this."""
        raise TwdError(FailureCode.INTERNAL, "over a ring the last stage reports")


_WORTH_A_TRIP = 128
"""So many tokens less to read are worth a trip round the ring."""


@dataclass(slots=True)
class _Line:
    """One session as the driver sees it: which epochs are valid, and which windows are in flight."""

    alive_from: int = 0
    flying: deque[tuple[int, Window]] = field(default_factory=deque)
    """Pass number and window of each window in flight, in the order of sending."""


@dataclass(frozen=True, slots=True)
class _Flight:
    windows: dict[int, Window]
    rows: int
    sent_at: float


class RingTarget:
    """A `Pipeline` over the stages of a ring. After the ring is lost it waits for `rewire`.

    A slot's tokens are those that, by the answers, every stage has computed: only these can be reused by the slot's
    next session.
    """

    trees = False

    def __init__(self, home: RingDriver, pipe: PipelineState, *, vocabulary: int, in_flight: int = 32) -> None:
        self.pipe = pipe
        self.in_flight = in_flight
        self.n_slots = home.bounds.slots
        self.ctx_size = home.bounds.ctx_size
        self.window_max = home.bounds.window_max
        self.can_rollback = True
        self._vocabulary = vocabulary
        self._wake: Callable[[], None] = lambda: None
        self.generation_number = 0
        """Number of the current ring, or of the last one if it is lost."""
        self.rows_sent = 0
        self.rows_kept = 0
        """Rows that became text or prompt; the other rows sent were dropped or computed for nothing."""
        self._number = 0
        self._offered: deque[tuple[RingDriver, PipelineState | None]] = deque()
        """New rings offered by other threads. They are taken one by one, since a later one may have no pipe of its own
        and use the one before."""
        self._adopt(home)

    # -- which ring ------------------------------------------------------------------------------

    def rewire(self, home: RingDriver, pipe: PipelineState | None = None) -> None:
        """Go on with another ring; from any thread. Raises TwdError where it is smaller than the first one was.

        `pipe`: what its stages measured; None if they are the stages of before.
        """
        bounds = home.bounds
        if bounds.slots < self.n_slots or bounds.ctx_size < self.ctx_size or bounds.window_max < self.window_max:
            raise TwdError(
                FailureCode.BAD_REQUEST,
                f"the new ring holds {bounds.slots} x {bounds.ctx_size} tokens and passes of {bounds.window_max}, "
                f"the lost one held {self.n_slots} x {self.ctx_size} and {self.window_max}",
            )
        self._offered.append((home, pipe))
        home.wake = self._wake
        self._wake()

    def generation(self) -> int:
        """Return the number of the current ring, counted from 1; 0 while there is none."""
        while self._offered:
            home, pipe = self._offered.popleft()
            if pipe is not None:
                self.pipe.become(pipe)
            self._adopt(home)
        return self.generation_number if self.home.over is None else 0

    def _adopt(self, home: RingDriver) -> None:
        self.home = home
        self.generation_number += 1
        self._undoable = home.bounds.undoable
        self._copies = CopyCost(self.ctx_size).least_saved if self._undoable == UNLIMITED else None
        self._slots = Slots(self.n_slots, self._copies, self._reach)
        self._beyond = [0] * self.n_slots
        """For each idle slot, how many tokens stages may have computed beyond its text."""
        self._lines: dict[int, _Line] = {}
        self._flights: dict[int, _Flight] = {}
        self._largest = 0
        """Rows of the largest pass that these stages have computed."""
        self._refused: list[VerifyResult] = []
        self.pipe.reset(home.bounds.credits)

    @property
    def least_shared(self) -> Callable[[int], int] | None:
        """As `SharesPrompts` has it. What is shared must have come back first, and stages may be idle meanwhile."""
        copies = self._copies
        return None if copies is None else lambda held: max(_WORTH_A_TRIP, copies(held))

    def on_ready(self, call: Callable[[], None]) -> None:
        """Set the function to call when there is something to collect, or the ring is lost or replaced."""
        self._wake = self.home.wake = call

    # -- sessions --------------------------------------------------------------------------------

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        """Open a session for a prompt; return its slot and how many tokens the slot already holds. Raises BUSY, or
        CONTEXT_OVERFLOW before any work begins."""
        if not isinstance(sampler, RemoteSpecSampler):
            raise TwdError(FailureCode.INTERNAL, "a ring wants to be told how a session picks")
        check_prompt(tokens, ctx_size=self.ctx_size)
        place = self._slots.open(tokens)
        if place.source is not None:
            self.home.send(Copy(place.source, place.slot))
        spec = (
            msgspec.structs.replace(sampler.spec, logprobs=report.top)
            if isinstance(report, RemoteSpecReport)
            else sampler.spec
        )
        self.home.send(Open(place.slot, spec))
        self._lines[place.slot] = _Line()
        return place.slot, place.common

    def _reach(self, slot: int, position: int) -> int:
        """`position`, if every stage can go back there; else 0."""
        steps = len(self._slots[slot].tokens) + self._beyond[slot] - position
        return position if steps <= self._undoable else 0

    def close(self, slot: int) -> None:
        """End a session and drop its windows in flight. Harmless when repeated."""
        line = self._lines.pop(slot, None)
        if line is None:
            return
        self._beyond[slot] = sum(len(window.tokens) for _, window in line.flying)
        self._void(slot, line)
        self.home.send(Close(slot))
        self._slots.close(slot)

    def _void(self, slot: int, line: _Line) -> None:
        """Drop all windows of a slot that are in flight; tell the stages, which may still compute them."""
        if not line.flying:
            return
        line.alive_from = line.flying[-1][1].epoch + 1
        self.home.void(slot, line.alive_from)
        flights = [flight for number, _ in line.flying if (flight := self._flights.get(number)) is not None]
        line.flying.clear()
        now = time.monotonic()
        if any(other.flying for other in self._lines.values()):
            self.pipe.voided([flight.rows for flight in flights if len(flight.windows) == 1], now)
        else:
            self.pipe.emptied(now)

    # -- windows ---------------------------------------------------------------------------------

    def submit(self, windows: Sequence[Window]) -> None:
        """Send one pass with windows of different slots; a window that is invalid or too large is refused with the next
        `collect`."""
        sent: dict[int, Window] = {}
        rows = 0
        for window in windows:
            rows += len(window.tokens)
            try:
                self._check(window, rows)
            except TwdError as error:
                rows -= len(window.tokens)
                self._refused.append(VerifyResult(window.slot, window.epoch, window.at, failure=error.failure))
                self._wake()
            else:
                sent[window.slot] = window
        if not sent:
            return
        self._number += 1
        now = time.monotonic()
        self._flights[self._number] = _Flight(sent, rows, now)
        for slot, window in sent.items():
            self._lines[slot].flying.append((self._number, window))
        self.rows_sent += rows
        self.pipe.sent(rows, now)
        self.home.send(PassFrame(self._number, [_item(window) for window in sent.values()]))

    def _check(self, window: Window, rows: int) -> None:
        check(window, vocabulary=self._vocabulary, ctx_size=self.ctx_size, trees=False)
        if window.slot not in self._lines:
            raise TwdError(FailureCode.INTERNAL, f"no session has slot {window.slot}")
        if rows > self.window_max:
            raise TwdError(FailureCode.INTERNAL, f"stages take {self.window_max} tokens in a pass, not {rows}")

    def collect(self) -> list[VerifyResult]:
        """Return the results that came since the last call; never waits."""
        verdicts, self._refused = self._refused, []
        for answer in self.home.answers():
            verdicts += self._answered(answer)
        return verdicts

    def _answered(self, answer: PassAnswer) -> list[VerifyResult]:
        flight = self._flights.pop(answer.verdicts.id, None)
        if flight is None:
            return []
        self.pipe.answered()
        if self._is_whole(flight, answer.verdicts):
            self._largest = max(self._largest, flight.rows)
            self._learn(flight, answer.verdicts.trail, answer.at)
        found = (self._judged(outcome, flight) for outcome in answer.verdicts.outcomes)
        return [verdict for verdict in found if verdict is not None]

    def _is_whole(self, flight: _Flight, told: PassResults) -> bool:
        """Whether every stage computed the whole pass; the times of one that was partly dropped or aborted are not
        used."""
        judged = sum(outcome.failure is None for outcome in told.outcomes)
        return len(told.trail) == self.home.stages and judged == len(flight.windows)

    def _learn(self, flight: _Flight, trail: Sequence[StageTiming], at: float) -> None:
        queued_ms = sum(mark.queue_us + mark.head_us for mark in trail) / 1000
        computed_ms = [mark.compute_us / 1000 for mark in trail]
        self.pipe.observe(flight.rows, (at - flight.sent_at) * 1000, queued_ms, computed_ms)

    def _judged(self, outcome: ItemOutcome, flight: _Flight) -> VerifyResult | None:
        """Return an outcome as a result; None where the session has ended or its epoch is over."""
        slot, epoch = outcome.slot, outcome.epoch
        line, window = self._lines.get(slot), flight.windows.get(slot)
        if line is None or window is None or epoch < line.alive_from or window.epoch != epoch:
            return None
        if all(flown is not window for _, flown in line.flying):
            return None  # it belongs to the slot's previous session
        while line.flying.popleft()[1] is not window:
            pass
        tokens = self._slots[slot].tokens
        self.rows_kept += outcome.standing
        del tokens[outcome.at :]
        tokens += window.tokens[: outcome.standing]
        if outcome.failure is not None or not self._goes_on(outcome, window, line):
            self._void(slot, line)
        path = list(range(outcome.standing))
        verdict = VerifyResult(slot, epoch, outcome.at, list(outcome.tokens), path, outcome.logprobs, outcome.failure)
        verdict.scores = [Score(fit.gap, fit.logprob, fit.entropy) for fit in outcome.scores]
        verdict.guesses = list(takewhile(lambda token: token < self._vocabulary, outcome.guesses))
        verdict.sure = outcome.sure[: len(verdict.guesses)]
        return verdict

    def _goes_on(self, outcome: ItemOutcome, window: Window, line: _Line) -> bool:
        """Whether the next window in flight begins with the token that was picked."""
        if not window.picks or not line.flying:
            return True
        return outcome.standing == len(window.tokens) and line.flying[0][1].tokens[0] == outcome.tokens[-1]

    def oldest(self, now: float) -> tuple[float, bool]:
        """Return for how many seconds the oldest pass has been in flight, and whether the stages have computed one of
        its size before; from any thread."""
        first = min(list(self._flights.values()), key=lambda flight: flight.sent_at, default=None)
        return (0.0, True) if first is None else (now - first.sent_at, first.rows <= self._largest)

    def shutdown(self) -> None:
        """Leave the ring; its stages go on running."""
        self._lines.clear()
        self.home.close()


def _item(window: Window) -> WindowItem:
    tokens = list(window.tokens)
    return WindowItem(
        window.slot,
        window.epoch,
        window.at,
        tokens,
        window.committed,
        window.picks,
        window.scores,
        window.ends,
        window.guesses,
        window.goes_on,
        window.drafts,
        window.least,
    )
