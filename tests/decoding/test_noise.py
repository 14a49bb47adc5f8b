"""The noise is what mathematics says it is, and the fast argmax is the full one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from twd.decoding.noise import Logits, NoiseKeys, draw, gumbel, strongest, strongest_of

LOGIT = st.one_of(
    st.floats(-40, 40, width=32),
    st.sampled_from([-np.inf, 0.0, 1.0, 1.0, -1e30, 1e30, 3e38, -3e38, 1e-40]),
)
TEMPERATURE = st.one_of(st.floats(0.01, 3.0), st.sampled_from([1e-300, 1e-40, 1e-30, 1e-9, 1.0, 99.0, 100.0]))


def full(logits: Logits, temperature: float, key: NoiseKeys) -> int:
    """The choice without any short cut."""
    ids = np.arange(len(logits))
    return int((logits.astype(np.float64) + temperature * gumbel(ids, key)).argmax())


@given(st.lists(LOGIT, min_size=1, max_size=300), TEMPERATURE, st.integers(0, 2**53 - 1), st.integers(0, 10**6))
@examples(500)
def test_pruned_is_full_for_odd_logits(values: list[float], temperature: float, seed: int, position: int) -> None:
    logits = np.array(values, dtype=np.float32)
    key = draw(seed, position)
    assert strongest(logits, temperature, key) == full(logits, temperature, key)


@pytest.mark.parametrize("size", [1, 2, 49_152, 151_936])
@pytest.mark.parametrize("temperature", [0.05, 0.8, 1.0, 5.0, 100.0])
def test_pruned_is_full_for_whole_vocabularies(size: int, temperature: float) -> None:
    rng = np.random.default_rng(size)
    for position in range(12):
        logits = (rng.standard_normal(size) * rng.choice([0.0, 1e-3, 2.5, 10.0])).astype(np.float32)
        logits[rng.integers(size, size=20)] += np.linspace(0, 16, 20).astype(np.float32)
        logits[rng.integers(size, size=size // 3)] = -np.inf
        logits[0] = 0.0
        key = draw(7, position)
        assert strongest(logits, temperature, key) == full(logits, temperature, key)


def test_infinite_logit_wins_and_the_lowest_of_several() -> None:
    logits = np.array([0.0, np.inf, 5.0, np.inf], dtype=np.float32)
    assert strongest(logits, 1.0, draw(1, 1)) == 1


def test_logits_stay_untouched() -> None:
    logits = np.linspace(-3, 3, 1000, dtype=np.float32)
    logits.flags.writeable = False
    assert strongest(logits, 0.7, draw(3, 4)) == strongest(logits, 0.7, draw(3, 4))


def test_a_few_tokens_get_the_noise_they_have_in_the_whole() -> None:
    logits = np.linspace(-1, 1, 500, dtype=np.float32)
    for position in range(50):
        key = draw(11, position)
        winner = strongest(logits, 1.0, key)
        ids = np.unique([winner, 3, 77, 401, 499])
        assert strongest_of(ids, logits[ids], 1.0, key) == winner


def test_noise_is_gumbel_distributed_and_finite() -> None:
    values = np.concatenate([gumbel(np.arange(50_000), draw(5, position)) for position in range(8)])
    assert np.isfinite(values).all()
    assert values.mean() == pytest.approx(0.5772, abs=0.01)
    assert values.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert (values < -np.log(-np.log(quantile))).mean() == pytest.approx(quantile, abs=0.005)


def test_noise_of_neighbours_is_unrelated() -> None:
    ids = np.arange(50_000)
    here = gumbel(ids, draw(1000, 20))
    for other in (draw(1000, 21), draw(1001, 20), draw(1001, 19), draw(20, 1000)):
        there = gumbel(ids, other)
        assert abs(np.corrcoef(here, there)[0, 1]) < 0.02
    assert abs(np.corrcoef(here[:-1], here[1:])[0, 1]) < 0.02


def test_picks_follow_the_softmax() -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0, -np.inf], dtype=np.float32)
    temperature, n = 1.3, 20_000
    counts = np.bincount([strongest(logits, temperature, draw(9, i)) for i in range(n)], minlength=5)
    weights = np.exp(logits / temperature)
    expected = n * weights / weights.sum()
    assert counts[4] == 0
    chi_square = ((counts[:4] - expected[:4]) ** 2 / expected[:4]).sum()
    assert chi_square < 16.3  # 0.1 % of honest draws with 3 degrees of freedom are above


def test_known_values_never_change() -> None:
    """Replicas of different versions must agree."""
    logits = np.zeros(1000, dtype=np.float32)
    assert [strongest(logits, 1.0, draw(42, i)) for i in range(6)] == [154, 878, 58, 31, 461, 480]
    assert gumbel(np.array([0, 1, 49_151]), draw(42, 7)) == pytest.approx(
        [-1.626128721, 1.013341079, 2.923186092], abs=1e-8
    )
