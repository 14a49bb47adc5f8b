"""Rings whose stages read their experts from disk: the text of the whole model, also when a stage is killed."""

import mmap
import signal
from pathlib import Path

import pytest

from tests.engine.experts.unlike import VOCABULARY, write_unlike
from tests.ring.homes import struck
from twd.bench.ring.lab import RingLab, RingPlan
from twd.engine.experts.layout import expert_layout
from twd.engine.experts.native import can_stream

pytestmark = pytest.mark.skipif(not can_stream(), reason="this build of llama.cpp has no cache of experts")
PROMPT = [(13 * index + 5) % VOCABULARY for index in range(18)]
COUNT = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unlike(tmp_path_factory.mktemp("unlike") / "unlike.gguf")


@pytest.fixture(scope="module")
def text(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What one stage says that holds the whole model in memory."""
    plan = RingPlan(source, tmp_path_factory.mktemp("whole"), (0, 4), ctx_size=256, parallel=2)
    with RingLab(plan) as lab, lab.ring(0.0, 1, VOCABULARY) as desk:
        return desk.speak([PROMPT], COUNT, [None])[0].tokens


@pytest.mark.parametrize(
    "cuts",
    [pytest.param((0, 2, 4), id="two"), pytest.param((0, 1, 2, 3, 4), marks=pytest.mark.thorough, id="four")],
)
def test_the_text_goes_on_when_a_stage_is_killed(
    source: Path, text: list[int], tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    layout = expert_layout(source)
    assert layout is not None
    least = layout.layer_bytes(mmap.PAGESIZE)
    plan = RingPlan(source, tmp_path, cuts, ctx_size=256, parallel=2, moe_memory=least)
    with RingLab(plan) as lab, lab.ring(0.0, 4, VOCABULARY) as desk:
        repair = struck(lab, desk, len(cuts) // 2 - 1, signal.SIGKILL, 12)
        (spoken,) = desk.speak([PROMPT], COUNT, [lambda known: [*text, 1, 1][len(known) - len(PROMPT) :][:6]])
        repair.join(60.0)
        assert spoken.tokens == text
        assert desk.target.generation_number == 2
