"""The filters keep the candidates that llama.cpp's own samplers keep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_cpp as llama

from tests.engine.llama_samplers import applied
from tests.properties import examples
from twd.decoding.filters import everything, filters_of, min_p, narrowed, top_k, top_p, typical
from twd.decoding.noise import Logits
from twd.wire.job import Sampling

SHAPES = ["narrow", "wide", "flat"]


def random_logits(shape: str, size: int, seed: int) -> Logits:
    """Distinct logits, so that no tie leaves a choice."""
    rng = np.random.default_rng(seed)
    spread = {"narrow": 6.0, "wide": 2.5, "flat": 0.3}[shape]
    logits = (rng.standard_normal(size) * spread).astype(np.float32)
    logits[rng.integers(size, size=5)] += np.float32(6.0)
    return logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10, 700, 49_152])
@pytest.mark.parametrize("k", [1, 5, 40, 600])
def test_top_k_is_llamas(shape: str, size: int, k: int) -> None:
    logits = random_logits(shape, size, k)
    kept = top_k(logits, k)
    assert np.all(np.diff(kept) > 0)
    expected = applied(llama.llama_sampler_init_top_k(k), logits).values()
    assert sorted(logits[kept].tolist()) == sorted(expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10, 700, 49_152])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_top_p_is_llamas(shape: str, size: int, share: float) -> None:
    logits = random_logits(shape, size, 1)
    expected = set(applied(llama.llama_sampler_init_top_p(share, 0), logits))
    assert_same_but_for_rounding(set(top_p(logits, share).tolist()), expected, logits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 1.0])
def test_min_p_is_llamas(shape: str, share: float) -> None:
    logits = random_logits(shape, 49_152, 2)
    assert set(min_p(logits, share).tolist()) == set(applied(llama.llama_sampler_init_min_p(share, 0), logits))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [10, 700, 49_152])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_typical_is_llamas(shape: str, size: int, share: float) -> None:
    logits = random_logits(shape, size, 3)
    expected = set(applied(llama.llama_sampler_init_typical(share, 0), logits))
    assert_same_but_for_rounding(set(typical(logits, share).tolist()), expected, logits)


def assert_same_but_for_rounding(ours: set[int], theirs: set[int], logits: Logits) -> None:
    """llama.cpp sums probabilities in 32-bit floats, so the border may lie a hair elsewhere."""
    weights = np.exp(logits.astype(np.float64) - logits.max())
    differing = np.array(sorted(ours ^ theirs), dtype=np.intp)
    assert weights[differing].sum() / weights.sum() < 2e-4
    assert len(differing) <= max(1, len(theirs) // 500)


@given(
    st.lists(st.one_of(st.floats(-20, 20, width=32), st.sampled_from([1.0, 2.0, -np.inf, -3e38])), max_size=200),
    st.integers(0, 50),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
@examples(300)
def test_something_always_stays(values: list[float], k: int, p: float, low: float, usual: float) -> None:
    logits = np.array([*values, 0.5], dtype=np.float32)
    sampling = Sampling(top_k=k, top_p=p, min_p=low, typical_p=usual)
    ids, kept = narrowed(everything(logits), filters_of(sampling))
    assert len(ids) >= 1
    assert np.all(np.diff(ids) > 0)
    assert (logits[ids] == kept).all()
    assert np.isfinite(kept.max())


def test_the_chain_runs_in_llamas_order() -> None:
    """typical_p before top_p before min_p: each sees only what the ones before left."""
    logits = random_logits("wide", 5000, 4)
    ids, _ = narrowed(everything(logits), filters_of(Sampling(top_k=50, typical_p=0.8, top_p=0.7, min_p=0.05)))
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for sampler in (
        llama.llama_sampler_init_top_k(50),
        llama.llama_sampler_init_typical(0.8, 0),
        llama.llama_sampler_init_top_p(0.7, 0),
        llama.llama_sampler_init_min_p(0.05, 0),
    ):
        llama.llama_sampler_chain_add(chain, sampler)
    assert set(ids.tolist()) == set(applied(chain, logits))


def test_equals_at_the_border_of_top_k_go_by_id() -> None:
    logits = np.array([1.0, 2.0, 2.0, 2.0, 0.0], dtype=np.float32)
    assert top_k(logits, 2).tolist() == [1, 2]
    assert top_k(np.zeros(5000, dtype=np.float32), 3).tolist() == [0, 1, 2]
