"""The choice of each token: pure, greedy or sampled, and clear about what it cannot do."""

import numpy as np
import pytest

from twd.engine.noise import draw, strongest
from twd.engine.pick import TokenPicker
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling


class Letters:
    """A vocabulary whose token n is a letter."""

    size = 5000

    def piece(self, token: int) -> bytes:
        """One letter."""
        return b"%c" % (97 + token % 26)


def picker_of(sampling: Sampling, seed: int = 1) -> TokenPicker:
    """A picker over letters."""
    return TokenPicker(sampling, seed, Letters())


def test_greedy_takes_the_highest_and_the_lowest_id_on_a_tie() -> None:
    picker = picker_of(Sampling())
    assert picker.pick(np.array([0.0, 3.0, 3.0, -np.inf], dtype=np.float32), [5]) == 1


def test_sampling_is_gumbel_max_at_the_position() -> None:
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    picker = picker_of(Sampling(temperature=0.8), seed=77)
    for length in (0, 1, 9, 300):
        assert picker.pick(logits, [1] * length) == strongest(logits, 0.8, draw(77, length))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[0.0, np.nan, 1.0], [-np.inf, -np.inf], [0.0, np.inf]])
def test_broken_logits_are_a_typed_failure(temperature: float, bad: list[float]) -> None:
    picker = picker_of(Sampling(temperature=temperature))
    with pytest.raises(TwdError) as caught:
        picker.pick(np.array(bad, dtype=np.float32), [])
    assert caught.value.code is FailureCode.INTERNAL


def test_filtered_sampling_keeps_the_noise_of_each_token() -> None:
    """A filter that would not have removed the winner does not change it."""
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    plain, filtered = picker_of(Sampling(temperature=1.0), 5), picker_of(Sampling(temperature=1.0, top_k=4900), 5)
    same = [plain.pick(logits, [0] * n) == filtered.pick(logits, [0] * n) for n in range(100)]
    assert np.mean(same) > 0.9


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(TwdError) as caught:
        picker_of(Sampling(logit_bias={5000: 1.0}))
    assert caught.value.failure.field == "logit_bias"


EVERYTHING = Sampling(
    temperature=0.9,
    top_k=50,
    top_p=0.95,
    min_p=0.02,
    typical_p=0.98,
    repeat_penalty=1.2,
    presence_penalty=0.1,
    frequency_penalty=0.1,
    dry_multiplier=0.8,
    logit_bias={3: 1.0},
)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), EVERYTHING])
def test_the_answer_never_depends_on_earlier_calls(sampling: Sampling) -> None:
    rng = np.random.default_rng(1)
    calls = [(rng.standard_normal(5000).astype(np.float32), rng.integers(5000, size=n).tolist()) for n in range(40)]
    for logits, _ in calls:
        logits.flags.writeable = False
    fresh = [picker_of(sampling, 3).pick(logits, history) for logits, history in calls]
    picker = picker_of(sampling, 3)
    for index in [*range(40), *rng.integers(40, size=200).tolist()]:
        assert picker.pick(*calls[index]) == fresh[index]


def test_greedy_under_typical_p_takes_the_likeliest_of_the_typical() -> None:
    logits = np.log(np.array([0.4] + [0.06] * 10, dtype=np.float32))
    assert picker_of(Sampling()).pick(logits, []) == 0
    assert picker_of(Sampling(typical_p=0.3)).pick(logits, []) != 0
