"""A target whose choice is a pure function of the text before it, and a driver that plays time."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.decoding.pipeline import PipelineState
from twd.decoding.window import Report, Sampler, Score, VerifyResult, Window
from twd.kit.effects import Publish
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.limits import SpeculatorIdentity, SpeculatorLimits
from twd.speculator.core.session import PreparedRequest
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.draft import DraftProposed
from twd.wire.job import JobSubmitted, Prompt, TokensAccepted
from twd.wire.model import CostPoint, VocabFingerprint
from twd.wire.prefix import prefix_hash

END = 1
VOCAB = 50
TURNS_MAX = 20_000
"""More than any test takes: one whose condition never holds fails instead of running for ever."""


def truth(history: Sequence[int]) -> int:
    """What the target says after `history`: any pure function does."""
    value = prefix_hash(history[-6:]) % 1000
    return END if value == 0 and len(history) > 20 else 2 + value % (VOCAB - 2)


def text_of(prompt: Sequence[int], count: int) -> list[int]:
    """The whole text that the target alone would make."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < count:
        token = truth(tokens)
        if token == END:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class TruePicker:
    """Picks by `truth`; the fake target hands it no logits."""

    def pick(self, logits: object, history: Sequence[int]) -> int:
        return truth(history)


@dataclass
class FakeTarget:
    """Keeps only what it was fed; an error in the core's bookkeeping shows at once."""

    n_slots: int = 2
    ctx_size: int = 512
    in_flight: int = 1
    window_max: int = 64
    trees: bool = False
    can_rollback: bool = True
    fed: dict[int, list[int]] = field(default_factory=dict)
    samplers: dict[int, Sampler] = field(default_factory=dict)
    pending: deque[Window] = field(default_factory=deque)
    cancelled: set[int] = field(default_factory=set)
    opened: int = 0
    rows: int = 0

    def open(self, tokens: Sequence[int], sampler: Sampler, report: Report | None = None) -> tuple[int, int]:
        slot = next(slot for slot in range(self.n_slots) if slot not in self.samplers)
        self.samplers[slot] = sampler
        self.opened += 1
        self.fed[slot] = []
        return slot, 0

    def submit(self, windows: Sequence[Window]) -> None:
        self.pending.extend(windows)

    def collect(self) -> list[VerifyResult]:
        windows = list(self.pending)
        self.pending.clear()
        return [self._judge(window) for window in windows if window.slot in self.samplers]

    def _judge(self, window: Window) -> VerifyResult:
        kept = self.fed[window.slot]
        assert window.at <= len(kept), "a gap in what the target was fed"
        del kept[window.at :]
        self.rows += len(window.tokens)
        verdict = VerifyResult(window.slot, window.epoch, window.at)
        kept += window.tokens[: window.committed] if window.picks else window.tokens
        if not window.picks:
            return verdict
        if window.scores:
            return self._score(window, verdict, kept)
        parents = window.parents or tuple(range(-1, len(window.tokens) - 1))
        node: int | None = window.committed - 1
        verdict.path = list(range(window.committed))
        while node is not None:
            token = self.samplers[window.slot].pick(None, kept)  # type: ignore[arg-type]
            verdict.tokens.append(token)
            here = node
            node = next(
                (
                    i
                    for i in range(window.committed, len(window.tokens))
                    if parents[i] == here and window.tokens[i] == token
                ),
                None,
            )
            if token == END:
                node = None
            if node is not None:
                verdict.path.append(node)
                kept.append(token)
        if len(window.tokens) == window.committed:
            self._go_on(window, verdict, kept)
        return verdict

    def _go_on(self, window: Window, verdict: VerifyResult, kept: list[int]) -> None:
        """Several steps in one call, sometimes fewer than were asked for."""
        steps = window.steps if window.at % 3 else min(window.steps, 2)
        while len(verdict.tokens) < steps and verdict.tokens[-1] != END:
            kept.append(verdict.tokens[-1])
            verdict.tokens.append(self.samplers[window.slot].pick(None, kept))  # type: ignore[arg-type]

    def _score(self, window: Window, verdict: VerifyResult, kept: list[int]) -> VerifyResult:
        sampler = self.samplers[window.slot]
        given = len(window.tokens) - window.drafts
        verdict.path = list(range(given))
        for token in window.tokens[window.committed : given]:
            choice = sampler.pick(None, kept)  # type: ignore[arg-type]
            verdict.scores.append(Score(0.0 if choice == token else 2.0, -1.0, 1.0))
            verdict.tokens.append(token)
            kept.append(token)
        for place in range(given, len(window.tokens) + 1) if window.goes_on else ():
            token = sampler.pick(None, kept)  # type: ignore[arg-type]
            verdict.tokens.append(token)
            if token == END or place == len(window.tokens) or window.tokens[place] != token:
                break
            verdict.path.append(place)
            kept.append(token)
        if window.ends:
            ended = sampler.pick(None, kept) == END  # type: ignore[arg-type]
            verdict.scores.append(Score(0.0 if ended else 3.0, -1.0, 1.0))
        return verdict

    def close(self, slot: int) -> None:
        self.samplers.pop(slot, None)

    def shutdown(self) -> None:
        self.samplers.clear()


@dataclass
class FakePipeline(FakeTarget):
    """Passes stay under way until they are let out; of an epoch with a wrong guess nothing further is computed."""

    in_flight: int = 8
    passes: deque[list[Window]] = field(default_factory=deque)
    wake: Callable[[], None] = lambda: None
    built: int = 1
    out: int = 1_000_000
    """So many passes may come out."""
    most: int = 0
    most_rows: int = 0
    """In one pass."""

    def __post_init__(self) -> None:
        points = [CostPoint(width=1, ms=5.0), CostPoint(width=16, ms=20.0)]
        self.pipe = PipelineState(points, [CostPoint(width=p.width, ms=2 * p.ms) for p in points], 30.0, room=16)
        self.lines: dict[int, tuple[int, int, int]] = {}
        self.dead: dict[int, int] = {}

    def generation(self) -> int:
        return self.built

    def on_ready(self, call: Callable[[], None]) -> None:
        self.wake = call

    def submit(self, windows: Sequence[Window]) -> None:
        assert len({window.slot for window in windows}) == len(windows)
        rows = sum(len(window.tokens) for window in windows)
        self.most_rows = max(self.most_rows, rows)
        self.pipe.sent(rows, 0.0)
        self.passes.append(list(windows))
        self.most = max(self.most, len(self.passes))
        assert len(self.passes) <= self.pipe.room

    def collect(self) -> list[VerifyResult]:
        verdicts: list[VerifyResult] = []
        while self.passes and self.out > 0:
            self.out -= 1
            self.pipe.answered()
            verdicts += [self._line(window) for window in self.passes.popleft() if self._alive(window)]
        return verdicts

    def _alive(self, window: Window) -> bool:
        if window.slot not in self.samplers or window.epoch < self.dead.get(window.slot, 0):
            return False
        epoch, at, token = self.lines.get(window.slot, (-1, -1, -1))
        assert window.epoch >= epoch, "epochs of a slot only rise"
        return window.epoch > epoch or (window.at == at and token in (-1, window.tokens[0]))

    def _line(self, window: Window) -> VerifyResult:
        verdict = self._judge(window)
        last = verdict.tokens[-1] if verdict.tokens else -1
        self.lines[window.slot] = (window.epoch, window.at + len(window.tokens), last)
        if window.picks and len(verdict.path) < len(window.tokens):
            self.dead[window.slot] = window.epoch + 1
        return verdict

    def close(self, slot: int) -> None:
        flying = [window.epoch for one in self.passes for window in one if window.slot == slot]
        self.dead[slot] = max([self.dead.get(slot, 0), *(epoch + 1 for epoch in flying)])
        super().close(slot)

    def lose(self) -> None:
        """The pipe is lost with all that was in it, and built anew."""
        self.built += 1
        self.passes.clear()
        self.samplers.clear()
        self.fed.clear()
        self.lines.clear()
        self.dead.clear()
        self.pipe.reset(room=16)
        self.wake()


def make_core(
    target: FakeTarget,
    cost: Callable[[int], float] = lambda rows: 10 + rows,
    shared_cost: Callable[[int], float] | None = None,
    **limits: object,
) -> SpeculatorCore:
    identity = SpeculatorIdentity(
        ModelId("m"), InstanceId("spec"), NodeId("n"), VocabFingerprint(hash="v", tokens=VOCAB)
    )
    values: dict[str, object] = {
        "slots": target.n_slots,
        "ctx_size": target.ctx_size,
        "in_flight": target.in_flight,
        "tree": target.trees,
        "prefill_rows": 16,
    } | limits
    pipe = target.pipe if isinstance(target, FakePipeline) else None
    limits_of = SpeculatorLimits(**values)  # type: ignore[arg-type]
    return SpeculatorCore(identity, limits_of, cost, pipe=pipe, shared_cost=shared_cost)


def job(name: str = "j", **fields: object) -> JobSubmitted:
    values: dict[str, object] = {"max_tokens": 40, "prompt": Prompt(text="")} | fields
    return JobSubmitted(
        job=JobId(name),
        model=ModelId("m"),
        owner=InstanceId("edge"),
        **values,  # type: ignore[arg-type]
    )


def opening(name: str, prompt: Sequence[int]) -> PreparedRequest:
    return PreparedRequest(
        session=SessionId(f"s-{name}"),
        tokens=list(prompt),
        sampler=TruePicker(),
        piece=lambda token: b"%d " % token,
        end_tokens=frozenset({END}),
        seed=7,
    )


@dataclass
class Driver:
    """Runs a core over a fake target in played time; `between` is called before each turn."""

    core: SpeculatorCore
    target: FakeTarget
    now: float = 0.0
    told: list[Event] = field(default_factory=list)
    between: Callable[["Driver"], None] | None = None
    turns: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def submit(self, job: JobSubmitted, prompt: Sequence[int]) -> None:
        self.core.check(job)
        self.core.submit(job, opening(job.job, prompt), self.now)
        self.read()

    def read(self) -> list[Event]:
        fresh = [effect.event for effect in self.core.effects() if isinstance(effect, Publish)]
        self.told += fresh
        return fresh

    def turn(self) -> None:
        self.turns += 1
        assert self.turns < TURNS_MAX, "what is waited for does not come"
        if self.between is not None:
            self.between(self)
        for session in self.core.admit(self.now):
            slot, cached = self.target.open(session.tokens, session.sampler)
            self.core.opened(session, slot, cached, self.now)
        if isinstance(self.target, FakePipeline):
            self._pipe_turn(self.target)
        else:
            self._pass_turn()
        for slot in self.core.released():
            self.target.close(slot)
        self.read()

    def _pass_turn(self) -> None:
        plan = self.core.plan(self.now)
        if plan.windows:
            self.target.submit(plan.windows)
            self._verdicts(plan.rows)
        else:
            self._wait(plan.wake_at)

    def _pipe_turn(self, target: FakePipeline) -> None:
        while (plan := self.core.plan(self.now)).windows:
            target.submit(plan.windows)
        target.out = self.dice.choice((0, 0, 1, 1, 3))
        if target.passes and target.out:
            self._verdicts(1)
        else:
            soon = self.now + 0.02
            self._wait(min(soon, plan.wake_at or soon) if target.passes else plan.wake_at)

    def _verdicts(self, rows: int) -> None:
        verdicts = self.target.collect()
        self.now += self.core.cost(max(1, rows)) / 1000
        self.core.verdicts(verdicts, self.now)

    def _wait(self, wake_at: float | None) -> None:
        self.now = max(self.now + 0.0001, wake_at if wake_at is not None else self.now)

    def run(self, limit: int = 5000) -> None:
        while not self.core.idle:
            self.turn()
            assert self.turns < limit, "the core does not come to an end"

    def tokens(self, name: str) -> list[int]:
        made: list[int] = []
        for event in self.told:
            if isinstance(event, TokensAccepted) and event.job == name:
                assert event.index == len(made), "a hole in the text"
                made += event.tokens
        return made


def drafts(rng: random.Random, driver: Driver, quality: float, name: str = "d") -> DraftProposed:
    """A draft for some session from some place, right with chance `quality`, of any length."""
    sessions = list(driver.core.by_id.values())
    session = rng.choice(sessions)
    at = max(0, len(session.tokens) + rng.choice([-3, -1, 0, 0, 0, 0, 1, 2, 9]))
    history = (session.tokens + text_of(session.tokens, 12))[:at]
    tokens: list[int] = []
    for _ in range(rng.randint(1, 8)):
        known = text_of([*history, *tokens], 1) or [END]
        tokens.append(known[0] if rng.random() < quality else rng.randrange(VOCAB))
    return DraftProposed(
        session=session.id,
        drafter=InstanceId(name),
        at=len(history),
        prefix=prefix_hash(history) if rng.random() < 0.95 else rng.getrandbits(40),
        tokens=tokens,
        confidence=[round(rng.random(), 2) for _ in range(rng.randint(0, len(tokens)))],
        more=rng.random() < 0.8,
        draft_ms=rng.random() * 30,
    )
