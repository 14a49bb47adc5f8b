"""A ring's last stage leaves logits where it computes them, and texts stay the same. The processor is the device."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.engine.stage_chain import Chain
from tests.engine.steps.conftest import loop, loop_library
from tests.engine.tiny_models import write_llama
from tests.ring.rings import native_ring
from tests.stage.test_native_stages import said_by
from twd.engine.context import Context
from twd.engine.device_rows.binding import DeviceRows, LogitsPlace
from twd.engine.slices import engine
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.engine.steps.binding import RuleHolder
from twd.ring.frames import Open, SessionSpec
from twd.wire.job import Sampling

__all__ = ["loop", "loop_library"]
pytestmark = pytest.mark.model
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8),
    Sampling(temperature=0.7, top_k=30, top_p=0.9, min_p=0.05, repeat_penalty=1.1),
)
PROMPT = [1, 5, 9, 2, 7]
DRAFTS = [3, 8, 60, 2] * 5


def leave(monkeypatch: pytest.MonkeyPatch, *, stays: bool) -> None:
    place = LogitsPlace.ANYWHERE if stays else None
    monkeypatch.setattr(engine, "logits_place", lambda pool, *, offloads: place)


def test_texts_are_those_of_logits_at_home(tmp_path: Path, loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known = write_llama(tmp_path / "lively.gguf", lively=3.0), list[int]()
    choice = Context.choice

    def counted(context: Context, row: int, rule: RuleHolder, history: Sequence[int]) -> int | None:
        token = choice(context, row, rule, history)
        known.extend([] if token is None else [token])
        return token

    found = []
    for stays in (False, True):
        leave(monkeypatch, stays=stays)
        with native_ring(path, (0, 1, 2), tmp_path, parallel=len(SAMPLINGS), ctx_size=128) as ring:
            monkeypatch.setattr(Context, "choice", counted)
            hand = ring.connect()
            for slot, sampling in enumerate(SAMPLINGS):
                hand.send(Open(slot, SessionSpec(sampling, 11, len(PROMPT), ignore_eos=True)))
            found.append([said_by(hand, slot, PROMPT, DRAFTS, width=4, depth=2) for slot in range(len(SAMPLINGS))])
            hand.close()
        monkeypatch.setattr(Context, "choice", choice)
        assert bool(known) == stays
    assert found[0] == found[1]
    assert len(known) > len(DRAFTS)


def test_a_stage_whose_logits_are_not_where_they_should_be_has_them_at_home(
    tmp_path: Path, loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, stays=True)
    monkeypatch.setattr(DeviceRows, "begin", lambda *_: False)
    path = write_llama(tmp_path / "lively.gguf", lively=3.0)
    with StageEngine.load(StagePlan(path, 0, 2, 2, True, 128, 2, threads=1)) as stage:
        assert stage.context.device_rows is None
        assert [stage.end(slot) for slot in range(2)] == [0, 0]


def test_only_the_stage_with_the_head_tries(tmp_path: Path, loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, stays=True)
    path = write_llama(tmp_path / "lively.gguf", lively=3.0)
    with Chain(path, (1,), tmp_path, ctx_size=128, parallel=2, threads=1) as chain:
        assert [stage.context.device_rows is not None for stage in chain.stages] == [False, True]
