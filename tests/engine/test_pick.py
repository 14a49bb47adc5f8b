"""The choice of each token: pure, greedy or sampled, and clear about what it cannot do."""

import numpy as np
import pytest

from twd.engine.noise import draw, strongest
from twd.engine.pick import TokenPicker
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling


def test_greedy_takes_the_highest_and_the_lowest_id_on_a_tie() -> None:
    picker = TokenPicker(Sampling(), seed=1)
    assert picker.pick(np.array([0.0, 3.0, 3.0, -np.inf], dtype=np.float32), [5]) == 1


def test_sampling_is_gumbel_max_at_the_position() -> None:
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    picker = TokenPicker(Sampling(temperature=0.8), seed=77)
    for length in (0, 1, 9, 300):
        assert picker.pick(logits, [1] * length) == strongest(logits, 0.8, draw(77, length))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[0.0, np.nan, 1.0], [-np.inf, -np.inf]])
def test_broken_logits_are_a_typed_failure(temperature: float, bad: list[float]) -> None:
    picker = TokenPicker(Sampling(temperature=temperature), seed=1)
    with pytest.raises(TwdError) as caught:
        picker.pick(np.array(bad, dtype=np.float32), [])
    assert caught.value.code is FailureCode.INTERNAL
