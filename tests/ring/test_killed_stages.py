"""Stages as processes that are killed or stopped at any moment: every text is whole and the same."""

import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.model_fixtures import model_cache, q4_path
from tests.ring.homes import struck
from twd.bench.ring.lab import RingLab, RingPlan

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


def knowing(text: Sequence[int], known: Sequence[int]) -> list[int]:
    done = len(known) - len(PROMPT)
    return [token + (at % 7 == 0) for at, token in enumerate(text)][done : done + 24]


@pytest.mark.thorough
@pytest.mark.parametrize("blow", [pytest.param(signal.SIGKILL, id="kill"), pytest.param(signal.SIGSTOP, id="stop")])
def test_the_text_goes_on(lab: RingLab, text: list[int], blow: int, request: pytest.FixtureRequest) -> None:
    dice = random.Random(request.node.name)
    with lab.ring(0.0, 16, VOCABULARY) as desk:
        repair = struck(lab, desk, dice.randrange(3), blow, dice.randrange(1, COUNT - 8))
        (spoken,) = desk.speak([PROMPT], COUNT, [lambda known: knowing(text, known)])
        repair.join(60.0)
        assert spoken.tokens == text
        assert desk.target.generation_number == 2
