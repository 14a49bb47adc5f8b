"""A pipeline of stages in played time, and the real planner on it: what windows in flight bring before a ring is built.

Only the stages, the links and the drafter are played. Beside it, windows of a fixed size and number for comparison.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.engine.pipe import Pipe
from twd.engine.window import Verdict, Window
from twd.kit.effects import Publish
from twd.speculator.bounds import Identity, Limits
from twd.speculator.core import SpeculatorCore
from twd.speculator.session import Opening
from twd.wire.base import InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.job import JobFinished, JobSubmitted, Prompt
from twd.wire.model import CostPoint, VocabFingerprint
from twd.wire.prefix import prefix_hash

_TOKENS = 30_000
_WRONG = 30_001
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
Answer = Callable[["Flying"], None]


@dataclass(frozen=True, slots=True)
class Line:
    """A pipeline: milliseconds of a pass over n rows at each stage, and of each link one way."""

    stages: tuple[Callable[[int], float], ...]
    link_ms: float = 0.0
    overhead_ms: float = 0.3
    """Of each stage and pass, besides computing."""
    aborts: bool = True
    """A stage stops computing what is void."""

    def curve(self, of: Callable[[Sequence[float]], float]) -> list[CostPoint]:
        """Points of what all stages' times come to."""
        return [CostPoint(width=rows, ms=of([stage(rows) for stage in self.stages])) for rows in _WIDTHS]

    def pipe(self, room: int = 32) -> Pipe:
        """What a speculator would have measured of it."""
        links = (len(self.stages) + 1) * self.link_ms + len(self.stages) * self.overhead_ms
        return Pipe(self.curve(max), self.curve(sum), links, room)


@dataclass(slots=True)
class Flying:
    """A pass on its way."""

    windows: list[Window]
    sent_ms: float
    queued_ms: float = 0.0
    computed_ms: list[float] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of all its windows."""
        return sum(len(window.tokens) for window in self.windows)


class Truth:
    """What the target says at each place of one session, and where the drafter is wrong."""

    def __init__(self, seed: int, wrong: float) -> None:
        self._seed, self._wrong = seed, wrong

    def token(self, at: int) -> int:
        """The target's token."""
        return hash((self._seed, at)) % _TOKENS

    def guess(self, at: int) -> int:
        """The drafter's."""
        return _WRONG if random.Random(f"{self._seed} {at}").random() < self._wrong else self.token(at)

    def pick(self, logits: object, history: Sequence[int]) -> int:
        """The same for the core."""
        return self.token(len(history))


class Played:
    """The stages and their links; time goes on by `advance`."""

    def __init__(self, line: Line, truths: Sequence[Truth], answer: Answer) -> None:
        self.now = 0.0
        self.computed = 0.0
        """Rows computed at the first stage."""
        self._line, self._truths, self._answer = line, truths, answer
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._queues: list[deque[tuple[float, Flying]]] = [deque() for _ in line.stages]
        self._busy: list[Flying | None] = [None for _ in line.stages]
        self._alive: list[dict[int, int]] = [{} for _ in line.stages]
        self._ends: dict[int, tuple[int, int, int]] = {}

    def at(self, ms: float, action: Callable[[], None]) -> None:
        """Let something happen later."""
        self._count += 1
        heapq.heappush(self._events, (ms, self._count, action))

    def advance(self) -> bool:
        """Let the next thing happen; False where nothing is under way."""
        if not self._events:
            return False
        self.now, _, action = heapq.heappop(self._events)
        action()
        return True

    def send(self, windows: list[Window]) -> Flying:
        """A pass leaves."""
        one = Flying(windows, self.now)
        self.at(self.now + self._line.link_ms, lambda: self._arrive(0, one))
        return one

    def void(self, slot: int, epoch: int) -> None:
        """Tell all stages that windows of this slot below this epoch are dead."""
        for i in range(len(self._line.stages)):
            self.at(self.now + self._line.link_ms, lambda i=i: self._kill(i, slot, epoch))  # type: ignore[misc]

    def _kill(self, i: int, slot: int, epoch: int) -> None:
        self._alive[i][slot] = max(self._alive[i].get(slot, 0), epoch)
        busy = self._busy[i]
        if busy is not None and self._line.aborts and self._dead(i, busy):
            self._busy[i] = None
            self._leave(i, busy)
            self._take(i)

    def _dead(self, i: int, one: Flying) -> bool:
        last = i + 1 == len(self._line.stages)
        return all(
            window.epoch < self._alive[i].get(window.slot, 0) or (last and not self._follows(window))
            for window in one.windows
        )

    def _follows(self, window: Window) -> bool:
        """Whether a window goes on where the last one of its epoch ended; the last stage knows that first."""
        epoch, end, pick = self._ends.get(window.slot, (-1, 0, -1))
        return window.epoch != epoch or pick < 0 or (window.at, window.tokens[0]) == (end, pick)

    def _arrive(self, i: int, one: Flying) -> None:
        self._queues[i].append((self.now, one))
        self._take(i)

    def _take(self, i: int) -> None:
        while self._busy[i] is None and self._queues[i]:
            came, one = self._queues[i].popleft()
            if self._dead(i, one):
                self._leave(i, one)
                continue
            spent = self._line.stages[i](one.rows)
            one.queued_ms += self.now - came
            one.computed_ms.append(spent)
            self.computed += one.rows / len(self._line.stages)
            self._busy[i] = one
            self.at(self.now + spent + self._line.overhead_ms, lambda one=one: self._done(i, one))  # type: ignore[misc]

    def _done(self, i: int, one: Flying) -> None:
        if self._busy[i] is one:
            self._busy[i] = None
            self._leave(i, one)
            self._take(i)

    def _leave(self, i: int, one: Flying) -> None:
        if i + 1 < len(self._line.stages) and not self._dead(i, one):
            self.at(self.now + self._line.link_ms, lambda: self._arrive(i + 1, one))
            return
        if i + 1 == len(self._line.stages):
            one.verdicts = [verdict for window in one.windows if (verdict := self._judge(i, window)) is not None]
        self.at(self.now + self._line.link_ms, lambda: self._answer(one))

    def _judge(self, i: int, window: Window) -> Verdict | None:
        if window.epoch < self._alive[i].get(window.slot, 0) or not self._follows(window):
            return None
        verdict = Verdict(window.slot, window.epoch, window.at, path=list(range(window.committed)))
        place = window.committed - 1
        while window.picks:
            token = self._truths[window.slot].token(window.at + place + 1)
            verdict.tokens.append(token)
            place += 1
            if place >= len(window.tokens) or window.tokens[place] != token:
                break
            verdict.path.append(place)
        whole = len(verdict.path) == len(window.tokens)
        last = verdict.tokens[-1] if verdict.tokens else -1
        self._ends[window.slot] = (window.epoch, window.at + len(verdict.path) if whole else -1, last)
        return verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """Tokens per second over all sessions, and rows computed for each token."""

    rate: float
    waste: float


@dataclass
class PlayedRing:
    """Some sessions of the real core over a played pipeline."""

    line: Line
    wrong: float = 0.1
    sessions: int = 1
    tokens: int = 384
    drafts: bool = True
    in_flight: int = 32
    prompt: int = 1
    ahead: int = 96
    seed: int = 1
    pipe: Pipe | None = None
    first_ms: float = 0.0
    """When the first token came."""

    def run(self) -> Outcome:
        """Play until all texts are whole."""
        self._truths = [Truth(self.seed * 1000 + i, self.wrong) for i in range(self.sessions)]
        self._played = Played(self.line, self._truths, self._answered)
        self._pipe = self.pipe or self.line.pipe()
        self._core = self._new_core()
        self._known: dict[int, int] = {}
        self._left = self.sessions
        self._alarm = -1.0
        self._began = 0.0
        self._submit()
        while self._left:
            self._turn()
            if not self._played.advance():
                raise RuntimeError("nothing is under way and nothing is planned")
        spent = self._played.now - self._began
        made = self.sessions * (self.tokens - 1)
        return Outcome(1000 * made / spent, self._played.computed / made)

    def _new_core(self) -> SpeculatorCore:
        vocab = VocabFingerprint(hash="v", tokens=_TOKENS + 10)
        identity = Identity(ModelId("target"), InstanceId("speculator"), NodeId("a"), vocab)
        limits = Limits(
            slots=self.sessions, ctx_size=1 << 20, max_window=32, in_flight=self.in_flight, ngram=False, prefill_rows=64
        )
        return SpeculatorCore(identity, limits, self._pipe.trip_ms, pipe=self._pipe)

    def _submit(self) -> None:
        for i, truth in enumerate(self._truths):
            job = JobSubmitted(
                job=JobId(f"job{i}"),
                model=ModelId("target"),
                owner=InstanceId("bench"),
                prompt=Prompt(text=""),
                max_tokens=self.tokens,
                deadline_ms=10**9,
            )
            tokens = [truth.token(at) for at in range(self.prompt)]
            opening = Opening(SessionId(f"s{i}"), tokens, truth, lambda _: b"", frozenset(), 0)
            self._core.submit(job, opening, 0.0)

    def _turn(self) -> None:
        now = self._played.now / 1000
        for slot, session in enumerate(self._core.admit(now)):
            self._core.opened(session, slot, 0, now)
        if self.drafts:
            self._propose(now)
        while True:
            plan = self._core.plan(now)
            if not plan.windows:
                break
            self._pipe.sent(plan.rows, now)
            self._played.send(plan.windows)
        if plan.wake_at is not None and plan.wake_at * 1000 != self._alarm:
            self._alarm = plan.wake_at * 1000
            self._played.at(max(self._alarm, self._played.now + 1e-6), lambda: None)

    def _propose(self, now: float) -> None:
        """Guesses up to `ahead` tokens beyond each text, at once."""
        for slot, session in self._core.sessions.items():
            at = len(session.tokens)
            if self._known.get(slot) == at:
                continue
            self._known[slot] = at
            tokens = [self._truths[slot].guess(at + i) for i in range(self.ahead)]
            event = DraftProposed(
                session=session.id, drafter=InstanceId("d"), at=at, prefix=prefix_hash(session.tokens), tokens=tokens
            )
            self._core.draft(event, tokens, now)

    def _answered(self, one: Flying) -> None:
        now = self._played.now / 1000
        self._pipe.answered()
        if len(one.computed_ms) == len(self.line.stages):
            self._pipe.observe(one.rows, self._played.now - one.sent_ms, one.queued_ms, one.computed_ms)
        if not self._began and any(verdict.tokens for verdict in one.verdicts):
            self._began = self.first_ms = self._played.now
            self._played.computed = 0.0
        epochs = {slot: session.epoch for slot, session in self._core.sessions.items()}
        flying = {slot: list(session.flights)[1:] for slot, session in self._core.sessions.items()}
        self._core.verdicts(one.verdicts, now)
        for slot, session in self._core.sessions.items():
            if session.epoch != epochs[slot]:
                self._played.void(slot, session.epoch)
                self._pipe.voided([max(1, len(one.nodes)) for one in flying[slot]], now)
        for effect in self._core.effects():
            if isinstance(effect, Publish) and isinstance(effect.event, JobFinished):
                self._left -= 1


class FixedRing:
    """One session with windows of a fixed size, a fixed number of them in flight."""

    def __init__(self, line: Line, wrong: float, width: int, in_flight: int, tokens: int = 384, seed: int = 1) -> None:
        self._truth = Truth(seed * 1000, wrong)
        self._played = Played(line, [self._truth], self._answered)
        self._width, self._in_flight, self._tokens = width, in_flight, tokens
        self._known = 1
        self._next = 0
        self._epoch = 0
        self._flights: deque[Window] = deque()

    def run(self) -> Outcome:
        """Play one text."""
        while self._known < self._tokens:
            while len(self._flights) < self._in_flight:
                self._launch()
            self._played.advance()
        made = self._known - 1
        return Outcome(1000 * made / self._played.now, self._played.computed / made)

    def _launch(self) -> None:
        places = range(self._next, self._next + self._width)
        tokens = tuple(self._truth.token(at) if at < self._known else self._truth.guess(at) for at in places)
        window = Window(0, self._epoch, self._next, tokens)
        self._flights.append(window)
        self._played.send([window])
        self._next += self._width

    def _answered(self, one: Flying) -> None:
        for verdict in one.verdicts:
            if verdict.epoch != self._epoch:
                continue
            window = self._flights.popleft()
            self._known = verdict.at + 1 + len(verdict.tokens)
            whole = len(verdict.path) == len(window.tokens)
            on = not self._flights or self._flights[0].tokens[0] == verdict.tokens[-1]
            if not whole or not on:
                self._epoch += 1
                self._played.void(0, self._epoch)
                self._flights.clear()
                self._next = self._known - 1
