"""Stages in a row give what the whole model gives, bit for bit."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engine.sliceable_models import write_sliceable
from tests.engine.stage_chain import Chain, windows_of
from twd.engine.context import BatchTokens
from twd.engine.demo_model import demo_model
from twd.engine.kernels import any_kernels
from twd.engine.slices.abort import AbortFlag
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.wire.failures import FailureCode, TwdError

WIDTHS = (24, 1, 8, 1, 4, 16, 2, 1)
TOKENS = [int(token) for token in np.random.default_rng(1).integers(100, 40_000, sum(WIDTHS))]
SIZE = {"ctx_size": 256, "parallel": 2, "threads": 2}


@pytest.fixture(scope="module")
def q4_whole(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with Chain(q4_path, (), tmp_path_factory.mktemp("slices"), **SIZE) as chain:
        yield chain


@pytest.fixture(scope="module")
def q4_chain(q4_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with Chain(q4_path, (1, 17), tmp_path_factory.mktemp("slices"), **SIZE) as chain:
        yield chain


@pytest.fixture(autouse=True)
def empty(q4_whole: Chain, q4_chain: Chain) -> None:
    q4_whole.clear()
    q4_chain.clear()


def test_a_chain_gives_the_whole_models_logits(q4_whole: Chain, q4_chain: Chain) -> None:
    whole = windows_of(q4_whole, TOKENS, WIDTHS)
    assert np.array_equal(whole, windows_of(q4_chain, TOKENS, WIDTHS, wrong=7))
    q4_whole.clear()
    assert np.array_equal(whole, windows_of(q4_whole, TOKENS, (1,) * sum(WIDTHS)))


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param((15,), marks=pytest.mark.thorough, id="halves"),
        pytest.param((1, 2, 29), id="awkward"),
        pytest.param((29, 30), marks=pytest.mark.thorough, id="head alone"),
    ],
)
def test_any_cut_will_do(cuts: tuple[int, ...], q4_whole: Chain, q4_path: Path, tmp_path: Path) -> None:
    with Chain(q4_path, cuts, tmp_path, **SIZE) as chain:
        assert np.array_equal(windows_of(q4_whole, TOKENS, WIDTHS), windows_of(chain, TOKENS, WIDTHS, wrong=7))


def test_slots_and_padding_change_nothing(q4_whole: Chain, q4_chain: Chain) -> None:
    whole = windows_of(q4_whole, TOKENS, (16, 4, 1))
    other = windows_of_slot_one(q4_whole)
    q4_chain.run_all({0: (0, TOKENS[:16]), 1: (0, TOKENS[30:46])})
    both = q4_chain.run_all({0: (16, TOKENS[16:20]), 1: (16, TOKENS[46:50])}, padding=3)
    last = q4_chain.run_all({0: (20, TOKENS[20:21]), 1: (20, TOKENS[50:51])})
    assert np.array_equal(whole[16:], np.concatenate([both[0], last[0]]))
    assert np.array_equal(other[16:], np.concatenate([both[1], last[1]]))


def windows_of_slot_one(chain: Chain) -> np.ndarray:
    parts = [chain.run(at, TOKENS[30 + at : 30 + end], slot=1) for at, end in ((0, 16), (16, 20), (20, 21))]
    return np.concatenate(parts)


def test_a_copied_slot_goes_on_as_the_first_would(q4_chain: Chain) -> None:
    q4_chain.run(0, TOKENS[:20])
    for stage in q4_chain.stages:
        stage.copy(0, 1)
    assert np.array_equal(q4_chain.run(20, TOKENS[20:24]), q4_chain.run(20, TOKENS[20:24], slot=1))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_aborted_pass_leaves_the_slot_as_it_was(number: int, q4_whole: Chain, q4_chain: Chain) -> None:
    whole = windows_of(q4_whole, TOKENS, (8, 8))
    q4_chain.run(0, TOKENS[:8])
    stage, flag = q4_chain.stages[number], AbortFlag()
    rows = BatchTokens()
    rows.add(0, 8, TOKENS[8:40])
    states = None if stage.first else np.zeros((len(rows), stage.n_embd), np.float32)
    flag.set()
    with pytest.raises(TwdError) as caught:
        stage.decode(rows, states, flag)
    assert caught.value.code is FailureCode.CANCELLED
    assert stage.end(0) == 8
    flag.clear()
    assert np.array_equal(whole[8:], q4_chain.run(8, TOKENS[8:16]))


def test_a_running_pass_is_stopped_from_another_thread(q4_chain: Chain) -> None:
    stage, flag = q4_chain.stages[1], AbortFlag()
    rows = BatchTokens()
    rows.add(0, 0, [0] * stage.window_max)
    states = np.ones((len(rows), stage.n_embd), np.float32)
    timer = threading.Timer(0.002, flag.set)
    timer.start()
    with pytest.raises(TwdError) as caught:
        run_for_ever(stage, rows, states, flag)
    timer.join()
    assert caught.value.code is FailureCode.CANCELLED
    assert stage.end(0) == 0


def run_for_ever(stage: StageEngine, rows: BatchTokens, states: np.ndarray, flag: AbortFlag) -> None:
    for _ in range(10_000):
        stage.decode(rows, states, flag)
        stage.rollback(0, 0)


def test_what_watches_a_pass_can_be_stopped_too(tmp_path: Path) -> None:
    path = write_sliceable("gemma", tmp_path)
    tokens = [token % 96 for token in TOKENS]
    with Chain(path, (), tmp_path, **SIZE) as whole, Chain(path, (3, 5), tmp_path, **SIZE) as chain:
        wanted = windows_of(whole, tokens, (8, 8))
        chain.run(0, tokens[:8])
        flag = AbortFlag()
        flag.set()
        rows = BatchTokens()
        rows.add(0, 8, tokens[8:16])
        for stage in chain.stages:
            states = None if stage.first else np.zeros((len(rows), stage.n_embd), np.float32)
            with pytest.raises(TwdError, match="aborted"):
                stage.decode(rows, states, flag)
        assert np.array_equal(wanted[8:], chain.run(8, tokens[8:16]))


@pytest.mark.thorough
def test_float_weights_match_the_whole_models_windows(f16_path: Path, tmp_path: Path) -> None:
    widths = (24, 8, 2, 4, 16)
    with Chain(f16_path, (), tmp_path, **SIZE) as whole, Chain(f16_path, (7, 19), tmp_path, **SIZE) as chain:
        assert [stage.rows_min for stage in chain.stages] == [1 if any_kernels() else 2] * 3
        assert np.array_equal(windows_of(whole, TOKENS, widths), windows_of(chain, TOKENS, widths, wrong=7))


@pytest.mark.thorough
def test_q8_0_too(model_cache: Path, tmp_path: Path) -> None:
    path = demo_model(model_cache, "q8_0")
    with Chain(path, (), tmp_path, **SIZE) as whole, Chain(path, (3, 16, 28), tmp_path, **SIZE) as chain:
        assert np.array_equal(windows_of(whole, TOKENS, WIDTHS), windows_of(chain, TOKENS, WIDTHS, wrong=7))


def test_a_file_of_other_layers_is_refused(q4_path: Path) -> None:
    with pytest.raises(TwdError, match="holds layers 0-30 of 30 and the head, not 0-15 of 30") as caught:
        StageEngine.load(StagePlan(q4_path, 0, 15, 30, head=False))
    assert caught.value.code is FailureCode.MODEL_LOAD


@pytest.mark.parametrize(
    "slots", [[0, 1, 0], [0, 0, 1], [2], [], [1, 0]], ids=["mixed", "uneven", "unknown", "none", "backwards"]
)
def test_rows_that_would_come_out_in_another_order_are_refused(slots: list[int], q4_chain: Chain) -> None:
    rows = BatchTokens()
    for at, slot in enumerate(slots):
        rows.add(slot, at, [5])
    with pytest.raises(TwdError, match="a pass takes 1 to 64 rows"):
        q4_chain.stages[0].decode(rows)


def test_states_of_another_shape_are_refused(q4_chain: Chain) -> None:
    rows = BatchTokens()
    rows.add(0, 0, [5, 6])
    for states in (None, np.zeros((1, 576), np.float32), np.zeros((2, 64), np.float32)):
        with pytest.raises(TwdError, match="2 rows need 576 floats each"):
            q4_chain.stages[1].decode(rows, states)
    with pytest.raises(TwdError, match="the first stage takes tokens"):
        q4_chain.stages[0].decode(rows, np.zeros((2, 576), np.float32))


def test_only_ends_know_the_vocabulary_and_only_the_head_picks(q4_chain: Chain) -> None:
    assert [stage.vocab_size for stage in q4_chain.stages] == [49152, 0, 49152]
    assert q4_chain.stages[-1].model.vocab.piece(28120) == q4_chain.stages[0].model.vocab.piece(28120) != b""
    assert q4_chain.stages[-1].samplers is not None
    with pytest.raises(TwdError, match="only the stage with the head"):
        _ = q4_chain.stages[0].samplers
