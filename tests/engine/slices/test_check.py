"""A cut is compared with the whole model before it serves, and the verdict is kept."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.sliceable_models import write_sliceable
from tests.engine.stage_chain import Chain
from twd.engine.slices.check import (
    BEST,
    PASSES,
    CutComparison,
    RecordedLogits,
    best_tokens,
    checked_cut,
    compare,
    record,
    recorded_logits,
    require_good,
    run_stages,
)
from twd.wire.failures import FailureCode, TwdError

SIZE = {"ctx_size": 64, "parallel": 1, "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sliceable("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def recorded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedLogits:
    return recorded_logits(model, tmp_path_factory.mktemp("checks"), threads=1)


def seen_by(chain: Chain) -> RecordedLogits:
    return record(run_stages(chain.stages), model="", settings="")


def test_a_good_cut_is_exact_and_is_not_run_twice(model: Path, recorded: RecordedLogits, tmp_path: Path) -> None:
    with Chain(model, (3, 5), tmp_path, **SIZE) as chain:
        first = checked_cut(recorded, [(0, 3), (3, 5), (5, 8)], tmp_path, lambda: seen_by(chain))
    assert first == CutComparison(exact=True, close=True, flipped=0, max_difference=0.0)
    require_good(first, "this cut", alike=True)

    def never() -> RecordedLogits:
        raise AssertionError("the verdict is on disk")

    assert checked_cut(recorded, [(0, 3), (3, 5), (5, 8)], tmp_path, never) == first
    with pytest.raises(AssertionError):
        checked_cut(recorded, [(0, 4), (4, 8)], tmp_path, never)
    with pytest.raises(AssertionError):
        checked_cut(recorded, [(0, 3), (3, 5), (5, 8)], tmp_path, never, builds="another machine")


def test_stages_in_the_wrong_order_are_refused(model: Path, recorded: RecordedLogits, tmp_path: Path) -> None:
    with Chain(model, (3, 5, 7), tmp_path, **SIZE) as chain:
        chain.stages[1:3] = chain.stages[2:0:-1]
        verdict = checked_cut(recorded, [(0, 3), (5, 7), (3, 5), (7, 8)], tmp_path, lambda: seen_by(chain))
    assert not verdict.close
    assert verdict.max_difference > 0.1
    with pytest.raises(TwdError, match=r"these stages: it computes something else.*pool.engine: rpc") as caught:
        require_good(verdict, "these stages", alike=False)
    assert caught.value.code is FailureCode.MODEL_LOAD
    assert not list(tmp_path.glob("checked-*.json"))


def test_a_little_noise_is_close_and_nonsense_is_not(recorded: RecordedLogits) -> None:
    dice = np.random.default_rng(0)
    logits = dice.standard_normal((sum(PASSES), 96)).astype(np.float32)
    whole = record(logits, model="", settings="")
    noisy = compare(record(logits + 1e-3, model="", settings=""), whole)
    assert (noisy.exact, noisy.close, noisy.flipped) == (False, True, 0)
    require_good(noisy, "another build", alike=False)
    with pytest.raises(TwdError):
        require_good(noisy, "the same build", alike=True)
    assert not compare(record(logits[:-1], model="", settings=""), whole).close
    assert not compare(record(np.full_like(logits, np.nan), model="", settings=""), whole).close
    assert not compare(record(-logits, model="", settings=""), whole).close
    assert not compare(whole, recorded).close


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, math.inf, -math.inf, math.nan]) | st.floats(width=32), min_size=1
    )
)
def test_the_best_tokens_are_those_of_a_whole_sort(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    assert best_tokens(logits).tolist() == np.argsort(-logits, kind="stable")[:BEST].tolist()


def test_what_was_recorded_is_found_again_unless_it_is_spoilt(
    model: Path, recorded: RecordedLogits, tmp_path: Path
) -> None:
    assert recorded_logits(model, tmp_path, threads=1) == recorded
    (kept,) = tmp_path.glob("recorded-*.json")
    kept.write_text("{")
    assert recorded_logits(model, tmp_path, threads=1) == recorded
    assert kept.read_text() != "{"


def test_a_model_without_room_is_run_from_disk(q4_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(needed: int, what: str) -> None:
        if needed > 50 << 20:
            raise TwdError(FailureCode.OUT_OF_MEMORY, f"{what} needs more memory")

    with Chain(q4_path, (11,), tmp_path, **SIZE) as chain:
        monkeypatch.setattr("twd.engine.model.require_memory", small)
        recorded = recorded_logits(q4_path, tmp_path)
        verdict = compare(seen_by(chain), recorded)
    assert recorded.from_disk
    assert verdict.close
