"""Stages as processes that are killed or stopped at any moment: every text is whole and the same."""

import random
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.model_fixtures import model_cache, q4_path
from twd.bench.ring.lab import RingClient, RingLab, RingPlan
from twd.wire.base import Event
from twd.wire.job import TokensAccepted

__all__ = ["model_cache", "q4_path"]
VOCABULARY = 49152
PROMPT = [1, 4093, 198, 1348, 3014, 7131, 327, 3587, 2770, 11278, 2909, 30, 2, 198, 1, 520, 9531, 198]
COUNT = 40


@pytest.fixture(scope="module")
def lab(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RingLab]:
    plan = RingPlan(q4_path, tmp_path_factory.mktemp("slices"), (0, 10, 20, 30), ctx_size=256, parallel=2)
    with RingLab(plan) as made:
        yield made


@pytest.fixture(scope="module")
def text(lab: RingLab) -> list[int]:
    with lab.ring(0.0, 1, VOCABULARY) as desk:
        return desk.speak([PROMPT], COUNT, [None])[0].tokens


def struck(lab: RingLab, desk: RingClient, victim: int, blow: int, at: int) -> threading.Thread:
    """Hit a stage when the text has so many tokens; another takes its place as soon as the ring is over."""
    hit, over = threading.Event(), threading.Event()
    home = desk.home
    home.ended = lambda reason: over.set()
    told = [0]

    def hear(event: Event) -> None:
        if isinstance(event, TokensAccepted):
            told[0] += len(event.tokens)
            if told[0] >= at and not hit.is_set():
                hit.set()
                lab.strike(victim, blow)

    def repair() -> None:
        assert over.wait(60.0), "the loss of a stage was not noticed"
        lab.replace(victim)
        desk.home = lab.wire()
        desk.target.rewire(desk.home)

    desk.hears = hear
    thread = threading.Thread(target=repair, daemon=True)
    thread.start()
    return thread


def knowing(text: Sequence[int], known: Sequence[int]) -> list[int]:
    done = len(known) - len(PROMPT)
    return [token + (at % 7 == 0) for at, token in enumerate(text)][done : done + 24]


@pytest.mark.parametrize(
    "blow",
    [pytest.param(signal.SIGKILL, id="kill"), pytest.param(signal.SIGSTOP, marks=pytest.mark.thorough, id="stop")],
)
def test_the_text_goes_on(lab: RingLab, text: list[int], blow: int, request: pytest.FixtureRequest) -> None:
    dice = random.Random(request.node.name)
    with lab.ring(0.0, 16, VOCABULARY) as desk:
        repair = struck(lab, desk, dice.randrange(3), blow, dice.randrange(1, COUNT - 8))
        (spoken,) = desk.speak([PROMPT], COUNT, [lambda known: knowing(text, known)])
        repair.join(60.0)
        assert spoken.tokens == text
        assert desk.target.generation_number == 2
