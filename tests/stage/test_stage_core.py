"""What a stage decides, against a model of it: any order of windows and voids, nothing wrong is ever let stand."""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.ring.fake_slices import FakeSlice
from twd.decoding.window import Logits
from twd.engine.context import BatchTokens
from twd.engine.slices.abort import AbortFlag
from twd.ring.frames import (
    Frame,
    ItemOutcome,
    PassFrame,
    PassResults,
    RingMessage,
    States,
    WindowItem,
    are_numbers,
    pack_states,
)
from twd.stage.core import OutputStage, RefusedItem, SlotEpochs, StageCore, StageLimits
from twd.stage.worker import StageWorker
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.ring import FrameFault, StateFormat

BOUNDS = StageLimits(slots=3, ctx_size=24, rows_max=6, vocabulary=9)
END = 8


def truth(history: Sequence[int]) -> int:
    """What the model of these tests says after a text."""
    return (sum(history) * 3 + len(history)) % END


class Truth:
    """Picks that; logits count for nothing here."""

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        return truth(history)


@dataclass
class Stage:
    """A stage's core with a cache that remembers which tokens it was fed, and a head if it is the last one."""

    core: StageCore
    cache: list[list[int]] = field(default_factory=lambda: [[] for _ in range(BOUNDS.slots)])

    @classmethod
    def made(cls, last: bool) -> "Stage":
        stage = cls(StageCore(BOUNDS, SlotEpochs(), OutputStage(BOUNDS.slots, frozenset({END})) if last else None))
        for slot in range(BOUNDS.slots):
            stage.core.open(slot)
            if stage.core.head is not None:
                stage.core.head.open(slot, Truth(), None)
        return stage

    def run(self, items: Sequence[WindowItem]) -> tuple[list[WindowItem], list[ItemOutcome]]:
        filtered = self.core.sift(items, lambda number: True)
        outcomes = list(filtered.refused)
        for item in filtered.live:
            assert item.at <= len(self.cache[item.slot]), "a gap in the cache"
            del self.cache[item.slot][item.at :]
            self.cache[item.slot] += item.tokens
            self.core.stands_at(item.slot, item.at + len(item.tokens))
            if self.core.head is not None:
                outcomes.append(self.core.head.judge(item, lambda node: np.zeros(1, np.float32), self.core.epochs))
        return filtered.live, outcomes


def window(slot: int, epoch: int, at: int, tokens: Sequence[int], committed: int = 1, picks: bool = True) -> WindowItem:
    return WindowItem(slot, epoch, at, list(tokens), committed, picks)


def somehow(dice: random.Random, stage: Stage, epoch: int, slot: int) -> WindowItem:
    """A window beside what a stage holds: most fit there, and some are wrong in every way."""
    held = stage.cache[slot] if slot < BOUNDS.slots else []
    at = max(0, len(held) - dice.choice((-1, 0, 0, 0, 0, 1, 1, 2, 5, 12)))
    text, rows = held[:at], dice.choice((1, 1, 2, 2, 3, 4, 7))
    for _ in range(rows):
        text.append(dice.randint(0, 9) if dice.random() < 0.3 else truth(text))
    later, committed = dice.choice((-1, 0, 0, 0, 1, 1, 1)), dice.choice((1, 1, 1, 1, 2, rows, rows + 1))
    return window(slot, max(0, epoch + later), at, text[-rows:], committed, dice.random() < 0.8)


@given(st.integers(0, 2**32))
def test_whatever_comes_the_cache_has_no_gap_and_the_text_is_the_models(seed: int) -> None:
    dice = random.Random(seed)
    last, before = Stage.made(True), Stage.made(False)
    epochs_seen: dict[int, int] = {}
    for _ in range(50):
        if dice.random() < 0.05:
            slot = dice.randrange(BOUNDS.slots)
            for stage in (last, before):
                stage.core.epochs.invalidate(slot, epochs_seen.get(slot, 0) + dice.randint(0, 1))
        slots = dice.choices(range(BOUNDS.slots + 1), (9, 9, 9, 1), k=dice.randint(1, 3))
        live, _ = before.run([somehow(dice, before, epochs_seen.get(slot, 0), slot) for slot in slots])
        for item in live:
            assert item.epoch >= epochs_seen.get(item.slot, 0), "an epoch came back"
            epochs_seen[item.slot] = item.epoch
        judged, outcomes = last.run(live)
        assert [item.slot for item in judged] == [item.slot for item in judged if item in live]
        for outcome in outcomes:
            check(last, outcome, judged)


def check(last: Stage, outcome: ItemOutcome, judged: Sequence[WindowItem]) -> None:
    if outcome.failure is not None:
        assert not outcome.tokens
        return
    item = next(item for item in judged if item.slot == outcome.slot)
    head = last.core.head
    assert head is not None
    stands = last.cache[item.slot][: item.at + outcome.standing]
    assert head.length(item.slot) == len(stands)
    for number, token in enumerate(outcome.tokens):
        assert token == truth(stands[: len(stands) - len(outcome.tokens) + 1 + number])


@examples(200)
@given(
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=40, max_size=40),
    st.integers(1, 6),
)
def test_windows_in_flight_give_the_text_of_single_steps(depth: int, right: list[bool], width: int) -> None:
    """A home that sends `depth` windows ahead, with drafts right or wrong, on one last stage."""
    stage, bounds_left = Stage.made(True), BOUNDS.ctx_size - 8
    text, epoch = [1, 2], 1
    stage.run([window(0, 0, 0, [1], picks=False)])
    while len(text) < bounds_left:
        drafts = list(text)
        sent: list[WindowItem] = []
        for _ in range(depth):
            at, tokens = len(drafts) - 1, [drafts[-1]]
            for _ in range(width - 1):
                good = right[len(drafts) % len(right)]
                drafts.append(truth(drafts) if good else (truth(drafts) + 1) % END)
                tokens.append(drafts[-1])
            drafts.append(truth(drafts))  # the token that should follow, which the next window begins with
            sent.append(window(0, epoch, at, tokens))
        for item in sent:
            if item.at + len(item.tokens) > BOUNDS.ctx_size:
                break
            _, outcomes = stage.run([item])
            if not outcomes:
                break
            text += outcomes[0].tokens
        epoch += 1
    for at in range(2, len(text)):
        assert text[at] == truth(text[:at])


@pytest.mark.parametrize(
    ("item", "fault", "code"),
    [
        (window(7, 1, 0, [1]), FrameFault.OUT_OF_RANGE, FailureCode.BAD_REQUEST),
        (window(0, 1, 0, [9]), FrameFault.OUT_OF_RANGE, FailureCode.BAD_REQUEST),
        (window(0, 1, 0, [1] * 7), FrameFault.TOO_LONG, FailureCode.BAD_REQUEST),
        (window(0, 1, 0, [1], 2), FrameFault.OUT_OF_RANGE, FailureCode.BAD_REQUEST),
        (window(0, 1, 1, [1]), FrameFault.OUT_OF_ORDER, FailureCode.INTERNAL),
        (window(0, 1, 0, [1] * 6, picks=False), None, None),
    ],
)
def test_refusals_have_names(item: WindowItem, fault: FrameFault | None, code: FailureCode | None) -> None:
    filtered = Stage.made(True).core.sift([item], lambda number: True)
    assert [one for one, _ in filtered.faults] == ([fault] if fault else [])
    assert [one.failure.code for one in filtered.refused if one.failure] == ([code] if code else [])


def test_what_follows_on_a_refused_window_is_dropped() -> None:
    core = Stage.made(False).core
    assert core.sift([window(0, 3, 5, [1])], lambda number: True).refused
    assert core.sift([window(0, 3, 6, [1])], lambda number: True).dropped == 1
    assert core.sift([window(0, 4, 0, [1])], lambda number: True).live


def test_a_slot_twice_in_a_pass_is_refused() -> None:
    filtered = Stage.made(False).core.sift([window(0, 1, 0, [1]), window(0, 1, 1, [1])], lambda number: True)
    assert (len(filtered.live), len(filtered.refused)) == (1, 1)


def test_full_is_full_and_no_fault() -> None:
    stage = Stage.made(False)
    for at in range(0, 24, 6):
        stage.run([window(0, 1, at, [1] * 6, picks=False)])
    filtered = stage.core.sift([window(0, 1, 24, [1])], lambda number: True)
    assert filtered.refused[0].failure is not None
    assert filtered.refused[0].failure.code is FailureCode.CONTEXT_OVERFLOW
    assert filtered.faults == []
    assert stage.core.sift([window(0, 2, 23, [1])], lambda number: True).live


def test_an_end_token_ends_its_epoch() -> None:
    class Ends:
        def pick(self, logits: Logits, history: Sequence[int]) -> int:
            return END

    stage = Stage.made(True)
    assert stage.core.head is not None
    stage.core.head.open(0, Ends(), None)
    _, outcomes = stage.run([window(0, 1, 0, [1, END, 2])])
    assert (outcomes[0].tokens, outcomes[0].standing) == ([END], 1)
    assert stage.run([window(0, 1, 1, [END])]) == ([], [])
    assert stage.run([window(0, 2, 1, [END])])[1][0].tokens == [END]


def test_a_pick_that_fails_leaves_the_text_as_it_was() -> None:
    class Fails:
        def pick(self, logits: Logits, history: Sequence[int]) -> int:
            raise TwdError(FailureCode.INTERNAL, "no numbers")

    stage = Stage.made(True)
    head = stage.core.head
    assert head is not None
    stage.run([window(0, 1, 0, [1, 2], picks=False)])
    head.open(0, Fails(), None)
    _, outcomes = stage.run([window(0, 1, 2, [3])])
    assert outcomes[0].failure is not None
    assert head.length(0) == 2
    head.open(0, Truth(), None)
    assert stage.run([window(0, 2, 2, [3])])[1][0].tokens == [truth([1, 2, 3])]


def test_a_session_that_cannot_be_picked_for_says_why() -> None:
    stage = Stage.made(True)
    assert stage.core.head is not None
    stage.core.head.cannot_open(1, Failure(code=FailureCode.BAD_GRAMMAR, message="what?"))
    filtered = stage.core.sift([window(1, 1, 0, [1])], lambda number: True)
    assert filtered.refused[0].failure == Failure(code=FailureCode.BAD_GRAMMAR, message="what?")


def test_controls_of_no_slot_are_refused() -> None:
    core = Stage.made(False).core
    for control in (core.open, core.close):
        with pytest.raises(RefusedItem):
            control(3)
    with pytest.raises(RefusedItem):
        core.copy(0, 3)


@dataclass
class Seat:
    """A place in the middle of a ring, of whose words nobody hears."""

    core: StageCore
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: list[WindowItem] | None = None
    first = False
    last = False
    format = StateFormat.F32
    is_open = True
    left: threading.Event = field(default_factory=threading.Event)

    def forward(self, message: RingMessage, payload: bytes = b"") -> None: ...

    def answer(self, verdicts: PassResults) -> None: ...

    def announce(self, slot: int, epoch: int) -> None: ...

    def refused(self, fault: FrameFault, detail: str) -> None: ...

    def done(self) -> None:
        self.left.set()

    def awaits(self, slot: int) -> bool:
        return False


@pytest.mark.parametrize("second", [[1], [1, 1]])
def test_of_a_slot_twice_in_a_pass_the_engine_gets_the_states_that_were_checked(second: list[int]) -> None:
    taken: list[States] = []

    class Noting(FakeSlice):
        def decode(self, rows: BatchTokens, states: States | None = None, aborted: AbortFlag | None = None) -> States:
            assert states is not None
            taken.append(states)
            return super().decode(rows, states, aborted)

    engine, failures = Noting(1, 2), list[BaseException]()
    worker, membership = StageWorker(engine, failures.append), Seat(StageCore(StageLimits(4, 24, 6), SlotEpochs()))
    membership.core.open(0)
    states = np.ones((2 + len(second), engine.n_embd), np.float32)
    states[2:] = np.nan
    items = [window(0, 1, 0, [1, 1]), window(0, 1, 2, second)]
    worker.start()
    worker.take(membership, Frame(PassFrame(1, items), pack_states(states)))
    assert membership.left.wait(10)
    assert worker.stop()
    assert failures == []
    assert [(len(one), are_numbers(one)) for one in taken] == [(2, True)]
