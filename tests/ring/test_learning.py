"""What the target over a ring learns of answers: times of whole passes, nothing of those that died on their way, and
nothing for a session that only has the slot of the one that was asked for."""

from collections.abc import Sequence
from typing import cast

import pytest

from twd.decoding.pipeline import PipelineState
from twd.decoding.window import VerifyResult, Window
from twd.engine.slices.undo import UNLIMITED
from twd.ring.driver import PassAnswer, RingDriver, RingLimits
from twd.ring.frames import ItemOutcome, PassResults, RingMessage, SessionSpec, StageTiming
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.wire.job import Sampling
from twd.wire.model import CostPoint

STEP_MS = 10.0
SENT_AT = 1_000.0


class Chain:
    """A home without a ring: it notes what is sent and answers what it is told to."""

    stages = 2
    over = None

    def __init__(self) -> None:
        self.bounds = RingLimits(slots=4, ctx_size=256, window_max=32, credits=16, undoable=UNLIMITED)
        self.sent: list[RingMessage] = []
        self.told: list[PassAnswer] = []
        self.wake = lambda: None

    def send(self, message: RingMessage) -> None:
        self.sent.append(message)

    def void(self, slot: int, epoch: int) -> None:
        """Nobody has to hear of it."""

    def answers(self) -> list[PassAnswer]:
        told, self.told = self.told, []
        return told


class Scene:
    """One target over such a home, and two sessions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = SENT_AT
        monkeypatch.setattr("twd.ring.target.time.monotonic", lambda: self.now)
        self.chain = Chain()
        step = [CostPoint(width=1, ms=STEP_MS), CostPoint(width=32, ms=STEP_MS)]
        whole = [CostPoint(width=one.width, ms=2 * one.ms) for one in step]
        self.pipe = PipelineState(step, whole, 0.0, 16)
        self.target = RingTarget(cast(RingDriver, self.chain), self.pipe, vocabulary=100)
        self.slots = [self.open() for _ in range(2)]

    def open(self) -> int:
        """The slot of a new session."""
        return self.target.open([1, 2, 3], RemoteSpecSampler(SessionSpec(Sampling(), 0, 3)))[0]

    def send(self, *places: tuple[int, int]) -> None:
        """A pass of windows of two rows, by slot and position."""
        self.target.submit([Window(slot, 1, at, (5, 6)) for slot, at in places])

    def answer(self, number: int, computed_ms: Sequence[float], *outcomes: ItemOutcome) -> list[VerifyResult]:
        trail = [StageTiming(0, int(ms * 1000)) for ms in computed_ms]
        self.chain.told.append(PassAnswer(PassResults(number, list(outcomes), trail), self.now))
        return self.target.collect()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def stands(slot: int, at: int, tokens: Sequence[int] = (6, 7)) -> ItemOutcome:
    return ItemOutcome(slot, 1, at, list(tokens), len(tokens))


def test_a_whole_pass_teaches(scene: Scene) -> None:
    scene.send((scene.slots[0], 2))
    scene.answer(1, (15.0, 15.0), stands(scene.slots[0], 2))
    assert scene.pipe.step_ms(2) > STEP_MS


@pytest.mark.parametrize("computed_ms", [(15.0, 0.0), (15.0, 1.0), (15.0,)])
def test_a_pass_that_was_dropped_or_aborted_on_its_way_teaches_nothing(
    scene: Scene, computed_ms: tuple[float, ...]
) -> None:
    scene.send((scene.slots[0], 2))
    scene.answer(1, computed_ms)
    assert (scene.pipe.step_ms(2), scene.pipe.trip_ms(2)) == (STEP_MS, 2 * STEP_MS)
    assert scene.pipe.flying == 0


def test_a_pass_of_which_a_part_was_dropped_teaches_nothing(scene: Scene) -> None:
    scene.send((scene.slots[0], 2), (scene.slots[1], 2))
    scene.answer(1, (15.0, 1.0), stands(scene.slots[0], 2))
    assert scene.pipe.trip_ms(2) == 2 * STEP_MS


def test_where_nothing_is_wanted_any_more_the_next_pass_leaves_at_once(scene: Scene) -> None:
    slot = scene.slots[0]
    for at in (2, 4, 6, 8):
        scene.send((slot, at))
    assert scene.pipe.due() > scene.now
    scene.answer(1, (10.0, 10.0), stands(slot, 2, (9,)))
    assert scene.pipe.due() <= scene.now


def test_what_flies_for_others_is_still_waited_for(scene: Scene) -> None:
    slot, other = scene.slots
    scene.send((slot, 2))
    scene.send((other, 2))
    scene.send((slot, 4))
    scene.answer(1, (10.0, 10.0), stands(slot, 2, (9,)))
    assert scene.now + STEP_MS / 1000 < scene.pipe.due() < scene.now + 2 * STEP_MS / 1000


def test_a_late_answer_takes_nothing_from_the_next_session_of_the_slot(scene: Scene) -> None:
    slot = scene.slots[0]
    for _ in range(scene.target.n_slots - len(scene.slots)):
        scene.open()
    scene.target.submit([Window(slot, 1, 2, (5, 6))])
    scene.target.close(slot)
    assert scene.open() == slot
    scene.target.submit([Window(slot, 2, 2, (5, 6))])
    assert scene.answer(1, (10.0, 10.0), ItemOutcome(slot, 1, 2, [6, 7], 2)) == []
    (verdict,) = scene.answer(2, (10.0, 10.0), ItemOutcome(slot, 2, 2, [6, 8], 2))
    assert verdict.tokens == [6, 8]
