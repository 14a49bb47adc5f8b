"""The target over a ring: the same text with any number of stages, with any guesses, and over a lost ring."""

import random
import threading
import time
from types import SimpleNamespace
from typing import cast

import pytest

from tests.ring.fake_slices import END_TOKEN, VOCABULARY
from tests.ring.homes import Desk, described, desk, go_home, in_background, knowing, liar
from tests.ring.rings import Ring, fake_ring
from twd.decoding.pipeline import PipelineState
from twd.decoding.window import FIRST_EPOCH, Window
from twd.ring.driver import RingDriver
from twd.ring.frames import SessionSpec
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.ring.trial import pipe_of
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobFailed, JobFinished, Sampling
from twd.wire.model import CostPoint

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6]
COUNT = 48
END = frozenset({END_TOKEN})


def plain_text(prompt: list[int], count: int = COUNT, seed: int = 0) -> list[int]:
    """The text of one stage, token by token."""
    with fake_ring(1) as ring, desk(ring, vocabulary=VOCABULARY, in_flight=1, ngram=False, end_tokens=END) as made:
        made.ask("plain", prompt, count, Sampling(seed=seed))
        made.wait()
        return made.texts["plain"]


@pytest.fixture(scope="module")
def text() -> list[int]:
    return plain_text(PROMPT)


@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.thorough), 4])
@pytest.mark.parametrize("in_flight", [1, 16])
def test_guesses_and_stages_change_nothing(text: list[int], stages: int, in_flight: int) -> None:
    for guess in (None, liar(VOCABULARY, 5), knowing(text, len(PROMPT)), knowing(text, len(PROMPT), wrong=0.2)):
        with (
            fake_ring(stages) as ring,
            desk(ring, vocabulary=VOCABULARY, in_flight=in_flight, guess=guess, end_tokens=END) as made,
        ):
            made.ask("a", PROMPT, COUNT)
            made.wait()
            assert made.texts["a"] == text


def test_many_sessions_at_once_each_get_their_own_text() -> None:
    dice = random.Random(3)
    prompts = [[dice.randrange(END_TOKEN) for _ in range(dice.randint(1, 40))] for _ in range(7)]
    prompts.append([*prompts[0], 5, 6, 7])
    texts = [plain_text(prompt, 24, seed) for seed, prompt in enumerate(prompts)]
    with fake_ring(3) as ring, desk(ring, vocabulary=VOCABULARY, guess=liar(VOCABULARY, 9), end_tokens=END) as made:
        for seed, prompt in enumerate(prompts):
            made.ask(f"j{seed}", prompt, 24, Sampling(seed=seed))
        made.wait(len(prompts))
        assert [made.texts[f"j{seed}"] for seed in range(len(prompts))] == texts


def test_a_slot_remembers_and_is_copied(text: list[int]) -> None:
    long = (PROMPT * 4)[:80]
    with fake_ring(2) as ring, desk(ring, vocabulary=VOCABULARY, end_tokens=END) as made:
        for name in ("first", "again"):
            made.ask(name, long, 8)
            (end,) = made.wait()
            assert isinstance(end, JobFinished)
        assert end.stats.cached_tokens >= 64
        made.ask("beside", [*long, *made.texts["first"], 1], 40)
        made.ask("copied", [*long, 2], 8)
        ends = made.wait(2)
        assert any(isinstance(one, JobFinished) and one.stats.cached_tokens == 80 for one in ends)
        assert made.texts["again"] == made.texts["first"]
    assert plain_text([*long, 2], 8) == made.texts["copied"]


def lose(made: Desk, ring: Ring, victim: int, at: int) -> list[threading.Thread]:
    """Take a stage out of the ring at this token, and rewire it in the background."""
    repairs: list[threading.Thread] = []

    def look(job: str, tokens: int) -> None:
        if tokens >= at and not repairs:
            ring.stages[victim].server.unwire("a test took it away")
            repairs.append(in_background(lambda: made.target.rewire(go_home(ring))))

    made.watch = look
    return repairs


def test_a_lost_ring_is_replaced_and_the_text_goes_on(text: list[int]) -> None:
    dice = random.Random(11)
    guess = knowing(text, len(PROMPT), 0.1)
    with fake_ring(3) as ring, desk(ring, vocabulary=VOCABULARY, guess=guess, end_tokens=END) as made:
        for turn in range(6):
            repairs = lose(made, ring, dice.randrange(3), dice.randrange(1, COUNT - 4))
            made.ask(f"j{turn}", PROMPT, COUNT)
            (end,) = made.wait()
            assert isinstance(end, JobFinished), end
            assert made.texts[f"j{turn}"] == text
            for thread in repairs:
                thread.join(20.0)
        assert made.target.generation() >= 2


def test_what_makes_no_sense_is_refused_before_it_is_sent() -> None:
    with fake_ring(2) as ring, desk(ring, vocabulary=VOCABULARY, end_tokens=END) as made:
        made.ask("bad", [VOCABULARY + 5], 4)
        (end,) = made.wait()
        assert isinstance(end, JobFailed)
        assert end.failure.code is FailureCode.BAD_REQUEST
        made.ask("good", PROMPT, 4)
        (end,) = made.wait()
        assert isinstance(end, JobFinished)


def test_a_smaller_ring_is_no_replacement() -> None:
    with fake_ring(2) as ring, desk(ring, vocabulary=VOCABULARY) as made, fake_ring(2, slots=1) as small:
        home = go_home(small)
        with pytest.raises(TwdError, match="holds 1 x"):
            made.target.rewire(home)
        home.close()
        assert home.join()


def test_of_two_rings_on_offer_neither_is_overlooked() -> None:
    bounds = SimpleNamespace(slots=1, ctx_size=64, window_max=8, credits=4, undoable=64)
    homes = [cast(RingDriver, SimpleNamespace(bounds=bounds, over=None)) for _ in range(3)]
    quick, slow = (
        PipelineState([CostPoint(width=1, ms=ms)], [CostPoint(width=1, ms=ms)], 1.0, room=4) for ms in (1.0, 50.0)
    )
    target = RingTarget(homes[0], quick, vocabulary=VOCABULARY)
    target.rewire(homes[1], slow)
    target.rewire(homes[2])
    assert target.generation() == 3
    assert target.home is homes[2]
    assert target.pipe.step_ms(1) == slow.step_ms(1), "the third ring is on the machines of the second"


def test_passes_of_a_size_that_the_stages_have_not_computed_are_told_apart() -> None:
    with fake_ring(2) as ring:
        target = RingTarget(go_home(ring), pipe_of(described(ring), 16), vocabulary=VOCABULARY)
        slot, _ = target.open(PROMPT, RemoteSpecSampler(SessionSpec(Sampling(), 0, len(PROMPT))))
        came = threading.Event()
        target.on_ready(came.set)
        assert target.oldest(time.monotonic()) == (0.0, True), "at rest"
        epoch = FIRST_EPOCH
        for rows, known in ((4, False), (3, True), (5, False)):
            epoch += 1
            target.submit([Window(slot, epoch, 0, tuple(PROMPT[:rows]), picks=False, committed=rows)])
            waited_s, familiar = target.oldest(time.monotonic())
            assert waited_s > 0
            assert familiar is known
            while not target.collect():
                assert came.wait(30)
                came.clear()
        target.shutdown()
        assert target.home.join()


def test_all_slots_busy_is_said() -> None:
    with fake_ring(1, slots=1) as ring:
        home = go_home(ring)
        target = RingTarget(home, pipe_of(described(ring), 16), vocabulary=VOCABULARY)
        target.open([1], RemoteSpecSampler(SessionSpec(Sampling(), 0, 1)))
        with pytest.raises(TwdError) as caught:
            target.open([2], RemoteSpecSampler(SessionSpec(Sampling(), 0, 1)))
        assert caught.value.code is FailureCode.BUSY
        target.shutdown()
        assert home.join()
        assert target.generation() == 0
