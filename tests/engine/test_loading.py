"""From a file to a measured model in one call, and nothing left behind where that fails."""

from pathlib import Path

import pytest

from tests.engine.driving import Greedy
from tests.engine.slices.recipes import recipe
from twd.chat import template_process
from twd.engine import exactness
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import load_native
from twd.engine.measuring import at_load
from twd.engine.model import LoadedGguf
from twd.engine.target import LocalTarget
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.model import CostPoint, Exactness

pytestmark = pytest.mark.model
MODEL = ModelId("tiny")


def test_all_stages_are_told_and_everything_is_measured(q4_path: Path) -> None:
    told: list[tuple[float, str]] = []
    plan = LoadPlan(model=MODEL, path=q4_path, ctx_size=640, parallel=2, threads=1)
    native = load_native(plan, lambda share, stage: told.append((share, stage)))
    try:
        assert "_fragments" in vars(native.model.vocab), "no prompt waits for it"
        assert native.exactness.exact
        assert native.exactness.compared > 0
        assert native.cost.ms(8) >= native.cost.ms(1) > 0
        assert (native.facts.model, native.facts.ctx_size, native.facts.parallel) == (MODEL, 640, 2)
        assert native.tokenize("hello") == native.model.vocab.tokenize("hello", parse_special=False, add_bos=False)
        assert native.render(native.tokenize("hello<|im_end|>")) == "hello<|im_end|>"
        assert {native.target.open([1, 2], Greedy())[0] for _ in range(2)} == {0, 1}, "the test holds no session"
    finally:
        native.close()
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1] == (1.0, "ready")


def test_a_failure_behind_the_weights_gives_them_back(q4_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[LoadedGguf] = []
    close = LoadedGguf.close

    def close_and_tell(model: LoadedGguf) -> None:
        closed.append(model)
        close(model)

    monkeypatch.setattr(LoadedGguf, "close", close_and_tell)
    plan = LoadPlan(model=MODEL, path=q4_path, ctx_size=128, exact=False, type_v="q9_9")
    with pytest.raises(TwdError) as caught:
        load_native(plan, lambda *_: None)
    assert caught.value.code is FailureCode.BAD_REQUEST
    assert len(closed) == 1
    assert not template_process._begun, "no process waits for its template"


def test_where_the_kernels_are_not_enough_it_does_without_them(q4_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[tuple[str, str]] = []

    def tell(target: LocalTarget, settings: str) -> Exactness:
        types = (target.context.settings.type_k, target.context.settings.type_v)
        tested.append(types)
        return Exactness(exact=types[0] != types[1], settings=settings, compared=1)

    monkeypatch.setattr(at_load, "self_test", tell)
    monkeypatch.setattr(at_load, "measure_cost", lambda *_, **__: [CostPoint(width=1, ms=5.0)])
    monkeypatch.setattr(exactness, "has_attention", lambda *_: True)
    native = load_native(LoadPlan(model=MODEL, path=q4_path, ctx_size=128, threads=1), lambda *_: None)
    try:
        assert tested == [("f16", "f16"), ("q8_0", "f16")]
        assert native.exactness.exact
        assert "K q8_0, V f16" in native.exactness.settings
    finally:
        native.close()


def test_a_recurrent_model_takes_drafts_only_where_windows_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = LoadPlan(
        model=MODEL, path=recipe("plamo2").write(tmp_path / "plamo2.gguf"), ctx_size=256, parallel=1, threads=1
    )
    exact = load_native(plan, lambda *_: None)
    exact.close()
    assert exact.facts.can_rollback
    assert "checkpoint" in exact.facts.note
    monkeypatch.setattr(at_load, "self_test", lambda _, settings: Exactness(exact=False, settings=settings))
    near = load_native(plan, lambda *_: None)
    near.close()
    assert not near.facts.can_rollback
    assert "takes no drafts" in near.facts.note
