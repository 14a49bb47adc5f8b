"""A target whose choice is a pure function of the text before it, and a driver that plays time."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twd.engine.window import Picker, Report, Verdict, Window
from twd.kit.effects import Publish
from twd.speculator.bounds import Identity, Limits
from twd.speculator.core import SpeculatorCore
from twd.speculator.session import Opening
from twd.wire.base import Event, InstanceId, JobId, ModelId, NodeId, SessionId
from twd.wire.job import JobSubmitted, Prompt, TokensAccepted
from twd.wire.model import VocabFingerprint
from twd.wire.prefix import prefix_hash

END = 1
VOCAB = 50


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
    pickers: dict[int, Picker] = field(default_factory=dict)
    pending: deque[Window] = field(default_factory=deque)
    cancelled: set[int] = field(default_factory=set)
    opened: int = 0
    rows: int = 0

    def open(self, tokens: Sequence[int], picker: Picker, report: Report | None = None) -> tuple[int, int]:
        slot = next(slot for slot in range(self.n_slots) if slot not in self.pickers)
        self.pickers[slot] = picker
        self.opened += 1
        self.fed[slot] = []
        return slot, 0

    def submit(self, windows: Sequence[Window]) -> None:
        self.pending.extend(windows)

    def collect(self) -> list[Verdict]:
        verdicts = []
        windows = [self.pending.popleft()] if self.in_flight > 1 and self.pending else list(self.pending)
        if self.in_flight == 1:
            self.pending.clear()
        for window in windows:
            if window.slot in self.pickers and not self._void(window):
                verdicts.append(self._judge(window))
        return verdicts

    def _void(self, window: Window) -> bool:
        """A pipeline drops what stands on a window that did not hold."""
        return self.in_flight > 1 and window.at > len(self.fed[window.slot])

    def _judge(self, window: Window) -> Verdict:
        kept = self.fed[window.slot]
        assert window.at <= len(kept), "a gap in what the target was fed"
        del kept[window.at :]
        self.rows += len(window.tokens)
        verdict = Verdict(window.slot, window.epoch, window.at)
        kept += window.tokens[: window.committed] if window.picks else window.tokens
        if not window.picks:
            return verdict
        parents = window.parents or tuple(range(-1, len(window.tokens) - 1))
        node: int | None = window.committed - 1
        verdict.path = list(range(window.committed))
        while node is not None:
            token = self.pickers[window.slot].pick(None, kept)  # type: ignore[arg-type]
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
        return verdict

    def close(self, slot: int) -> None:
        self.pickers.pop(slot, None)

    def shutdown(self) -> None:
        self.pickers.clear()


def make_core(
    target: FakeTarget, cost: Callable[[int], float] = lambda rows: 10 + rows, **limits: object
) -> SpeculatorCore:
    identity = Identity(ModelId("m"), InstanceId("spec"), NodeId("n"), VocabFingerprint(hash="v", tokens=VOCAB))
    values: dict[str, object] = {
        "slots": target.n_slots,
        "ctx_size": target.ctx_size,
        "in_flight": target.in_flight,
        "tree": target.trees,
        "prefill_rows": 16,
    } | limits
    return SpeculatorCore(identity, Limits(**values), cost)  # type: ignore[arg-type]


def job(name: str = "j", **fields: object) -> JobSubmitted:
    values: dict[str, object] = {"max_tokens": 40} | fields
    return JobSubmitted(
        job=JobId(name),
        model=ModelId("m"),
        owner=InstanceId("edge"),
        prompt=Prompt(text=""),
        **values,  # type: ignore[arg-type]
    )


def opening(name: str, prompt: Sequence[int]) -> Opening:
    return Opening(
        session=SessionId(f"s-{name}"),
        tokens=list(prompt),
        picker=TruePicker(),  # type: ignore[arg-type]
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
        if self.between is not None:
            self.between(self)
        for session in self.core.admit(self.now):
            slot, cached = self.target.open(session.tokens, session.picker)
            self.core.opened(session, slot, cached, self.now)
        plan = self.core.plan(self.now)
        if plan.windows:
            self.target.submit(plan.windows)
        elif not self.target.pending:
            self.now = max(self.now + 0.0001, plan.wake_at if plan.wake_at is not None else self.now)
        if plan.windows or self.target.pending:
            pipelined = self.target.in_flight > 1 and plan.windows and random.Random(self.turns).random() < 0.7
            if not pipelined:
                verdicts = self.target.collect()
                self.now += self.core.cost(max(1, plan.rows)) / 1000
                self.core.verdicts(verdicts, self.now)
        for slot in self.core.released():
            self.target.close(slot)
        self.read()

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
