"""A simulated pipeline of stages in virtual time, with windows of a fixed size and number.

For comparison with the real planner on the same pipeline.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.decoding.batches import BatchPlanner, BatchRules
from twd.decoding.pipeline import PipelineState
from twd.decoding.window import VerifyResult, Window
from twd.wire.model import CostPoint

TOKENS = 30_000
_WRONG = 30_001
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
_ROWS_MAX = 4096
Answer = Callable[["PassInFlight"], None]


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A pipeline: for each stage, the ms of a pass over n rows; and the one-way delay of each link in ms."""

    stages: tuple[Callable[[int], float], ...]
    link_ms: float = 0.0
    overhead_ms: float = 0.3
    """Extra ms of each stage and pass, besides computing."""
    aborts: bool = True
    """Whether a stage stops computing dropped windows."""
    rows_min: int = 1
    """A pass computes at least this many rows."""
    cores: float = 64.0
    """Cores of the machine that runs all stages; if more are needed at one time, all stages are slower."""

    def speed(self, busy: int) -> float:
        """Return the relative speed of each stage when this many compute at one time."""
        return min(1.0, self.cores / max(1, busy))

    def curve(self, of: Callable[[Sequence[float]], float]) -> list[CostPoint]:
        """Return the cost curve of all stages, combined with `of`."""
        return [
            CostPoint(width=rows, ms=of([stage(max(rows, self.rows_min)) for stage in self.stages])) for rows in _WIDTHS
        ]

    def pipe(self, room: int = 32) -> PipelineState:
        """Return the pipeline state that a speculator would have measured."""
        links = (len(self.stages) + 1) * self.link_ms + len(self.stages) * self.overhead_ms
        return PipelineState(self.curve(max), self.curve(sum), links, room)


@dataclass(slots=True)
class PassInFlight:
    """A pass in flight."""

    windows: list[Window]
    sent_ms: float
    queued_ms: float = 0.0
    computed_ms: list[float] = field(default_factory=list)
    verdicts: list[VerifyResult] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The rows of all its windows."""
        return sum(len(window.tokens) for window in self.windows)


@dataclass(slots=True)
class BusyStage:
    """A stage that computes."""

    one: PassInFlight
    began: float
    left_ms: float
    """Remaining ms of computing, if it ran alone on its machine."""


class TrueText:
    """The target's token at each position of one session, and where the drafter is wrong."""

    def __init__(self, seed: int, wrong: float) -> None:
        self._seed, self._wrong = seed, wrong

    def token(self, at: int) -> int:
        """Return the target's token."""
        return hash((self._seed, at)) % TOKENS

    def guess(self, at: int) -> int:
        """Return the drafter's token."""
        return _WRONG if random.Random(f"{self._seed} {at}").random() < self._wrong else self.token(at)

    def pick(self, logits: object, history: Sequence[int]) -> int:
        """Return the target's token, with the interface of a sampler."""
        return self.token(len(history))


class SimulatedPipeline:
    """The stages and their links; `advance` moves the time."""

    def __init__(self, line: PipelineSpec, truths: Sequence[TrueText], answer: Answer) -> None:
        self.now = 0.0
        self.computed = 0.0
        """Rows that the first stage has computed."""
        self._line, self._truths, self._answer = line, truths, answer
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._queues: list[deque[tuple[float, PassInFlight]]] = [deque() for _ in line.stages]
        self._busy: list[BusyStage | None] = [None for _ in line.stages]
        self._worked = 0.0
        self._shift = 0
        self._passes = BatchPlanner(BatchRules(_ROWS_MAX, rows_min=line.rows_min))
        self._alive: list[dict[int, int]] = [{} for _ in line.stages]
        self._ends: dict[int, tuple[int, int, int]] = {}

    def at(self, ms: float, action: Callable[[], None]) -> None:
        """Schedule an action."""
        self._count += 1
        heapq.heappush(self._events, (ms, self._count, action))

    def advance(self) -> bool:
        """Run the next action; returns False if there is none."""
        if not self._events:
            return False
        self.now, _, action = heapq.heappop(self._events)
        action()
        return True

    def send(self, windows: list[Window]) -> PassInFlight:
        """Send a pass."""
        one = PassInFlight(windows, self.now)
        self.at(self.now + self._line.link_ms, lambda: self._arrive(0, one))
        return one

    def void(self, slot: int, epoch: int) -> None:
        """Tell all stages to drop windows of this slot below this epoch."""
        for i in range(len(self._line.stages)):
            self.at(self.now + self._line.link_ms, lambda i=i: self._kill(i, slot, epoch))  # type: ignore[misc]

    def _kill(self, i: int, slot: int, epoch: int) -> None:
        self._alive[i][slot] = max(self._alive[i].get(slot, 0), epoch)
        busy = self._busy[i]
        if busy is not None and self._line.aborts and self._dead(i, busy.one):
            self._stop(i)

    def _dead(self, i: int, one: PassInFlight) -> bool:
        last = i + 1 == len(self._line.stages)
        return all(
            window.epoch < self._alive[i].get(window.slot, 0) or (last and not self._follows(window))
            for window in one.windows
        )

    def _follows(self, window: Window) -> bool:
        """Return whether a window continues the last one of its epoch; the last stage knows that first."""
        epoch, end, pick = self._ends.get(window.slot, (-1, 0, -1))
        return window.epoch != epoch or pick < 0 or (window.at, window.tokens[0]) == (end, pick)

    def _arrive(self, i: int, one: PassInFlight) -> None:
        self._queues[i].append((self.now, one))
        self._take(i)

    def _take(self, i: int) -> None:
        while self._busy[i] is None and self._queues[i]:
            came, one = self._queues[i].popleft()
            if self._dead(i, one):
                self._leave(i, one)
                continue
            one.queued_ms += self.now - came
            self.computed += one.rows / len(self._line.stages)
            self._work()
            self._busy[i] = BusyStage(one, self.now, self._alone_ms(i, one) + self._line.overhead_ms)
            self._watch()

    def _alone_ms(self, i: int, one: PassInFlight) -> float:
        """Return the ms of a pass alone on its machine: windows of separated slots run one by one, or padded."""
        shape = tuple(sorted((window.slot, len(window.tokens)) for window in one.windows))
        return sum(self._line.stages[i](part.rows) for part in self._passes.plan(shape))

    def _work(self) -> None:
        """Advance the work of all stages to now."""
        at_work = [busy for busy in self._busy if busy is not None]
        done = (self.now - self._worked) * self._line.speed(len(at_work))
        for busy in at_work:
            busy.left_ms -= done
        self._worked = self.now

    def _watch(self) -> None:
        """Schedule the end of the stage that is done first; any start or stop before changes that time."""
        self._shift += 1
        shift = self._shift
        at_work = [(busy.left_ms, i) for i, busy in enumerate(self._busy) if busy is not None]
        if at_work:
            left, i = min(at_work)
            self.at(self.now + max(0.0, left) / self._line.speed(len(at_work)), lambda: self._done(i, shift))

    def _done(self, i: int, shift: int) -> None:
        if shift == self._shift:
            self._stop(i)

    def _stop(self, i: int) -> None:
        busy = self._busy[i]
        assert busy is not None
        self._work()
        self._busy[i] = None
        busy.one.computed_ms.append(self.now - busy.began - self._line.overhead_ms)
        self._leave(i, busy.one)
        self._watch()
        self._take(i)

    def _leave(self, i: int, one: PassInFlight) -> None:
        if i + 1 < len(self._line.stages) and not self._dead(i, one):
            self.at(self.now + self._line.link_ms, lambda: self._arrive(i + 1, one))
            return
        if i + 1 == len(self._line.stages):
            one.verdicts = [verdict for window in one.windows if (verdict := self._judge(i, window)) is not None]
        self.at(self.now + self._line.link_ms, lambda: self._answer(one))

    def _judge(self, i: int, window: Window) -> VerifyResult | None:
        if window.epoch < self._alive[i].get(window.slot, 0) or not self._follows(window):
            return None
        verdict = VerifyResult(window.slot, window.epoch, window.at, path=list(range(window.committed)))
        place = window.committed - 1
        while window.picks:
            token = self._truths[window.slot].token(window.at + place + 1)
            verdict.tokens.append(token)
            place += 1
            if place >= len(window.tokens) or window.tokens[place] != token:
                break
            verdict.path.append(place)
        whole = len(verdict.path) == len(window.tokens)
        if not whole:
            self._announce(i, window)
        last = verdict.tokens[-1] if verdict.tokens else -1
        self._ends[window.slot] = (window.epoch, window.at + len(verdict.path) if whole else -1, last)
        return verdict

    def _announce(self, last: int, window: Window) -> None:
        """Tell the earlier stages of a wrong draft one after the other, backwards along the ring."""
        for i in range(last):
            heard = self.now + (last - i) * self._line.link_ms
            self.at(heard, lambda i=i: self._kill(i, window.slot, window.epoch + 1))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class PipelineOutcome:
    """Tokens per second over all sessions, and rows computed per token."""

    rate: float
    waste: float


class FixedRing:
    """One session with windows of a fixed size, a fixed number of them in flight."""

    def __init__(
        self, line: PipelineSpec, wrong: float, width: int, in_flight: int, tokens: int = 384, seed: int = 1
    ) -> None:
        self._truth = TrueText(seed * 1000, wrong)
        self._played = SimulatedPipeline(line, [self._truth], self._answered)
        self._width, self._in_flight, self._tokens = width, in_flight, tokens
        self._known = 1
        self._next = 0
        self._epoch = 0
        self._inflight_windows: deque[Window] = deque()

    def run(self) -> PipelineOutcome:
        """Simulate one answer."""
        while self._known < self._tokens:
            while len(self._inflight_windows) < self._in_flight:
                self._launch()
            self._played.advance()
        made = self._known - 1
        return PipelineOutcome(1000 * made / self._played.now, self._played.computed / made)

    def _launch(self) -> None:
        places = range(self._next, self._next + self._width)
        tokens = tuple(self._truth.token(at) if at < self._known else self._truth.guess(at) for at in places)
        window = Window(0, self._epoch, self._next, tokens)
        self._inflight_windows.append(window)
        self._played.send([window])
        self._next += self._width

    def _answered(self, one: PassInFlight) -> None:
        for verdict in one.verdicts:
            if verdict.epoch != self._epoch:
                continue
            window = self._inflight_windows.popleft()
            self._known = verdict.at + 1 + len(verdict.tokens)
            whole = len(verdict.path) == len(window.tokens)
            on = not self._inflight_windows or self._inflight_windows[0].tokens[0] == verdict.tokens[-1]
            if not whole or not on:
                self._epoch += 1
                self._played.void(0, self._epoch)
                self._inflight_windows.clear()
                self._next = self._known - 1
