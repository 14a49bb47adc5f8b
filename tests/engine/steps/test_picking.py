"""Native picks are the sampler's picks, whatever the logits and the rules."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twd.decoding.sampler import TokenSampler
from twd.drafter.native import judge
from twd.engine.steps.binding import NativePicker, RuleHolder
from twd.wire.job import Sampling

SIZES = (5, 64, 1000, 5003)
ASKS = -1


class Vocabulary:
    def __init__(self, size: int) -> None:
        self.size = size
        self.end_tokens = frozenset([size - 1])
        self.special_tokens = {"end": size - 1}

    def piece(self, token: int) -> bytes:
        return b"%d" % token


@pytest.fixture(scope="module")
def pickers(loop_library: object) -> Iterator[dict[int, NativePicker]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twd.engine.steps.binding.library", lambda: loop_library)
        found = {size: NativePicker(size) for size in SIZES}
    yield found
    for picker in found.values():
        picker.close()


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.5]),
    top_k=st.sampled_from([0, 1, 3, 40, 2000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.1]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    repeat_last_n=st.sampled_from([64, -1, 0, 3]),
    presence_penalty=st.sampled_from([0.0, 0.4, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    logit_bias=st.sampled_from([{}, {1: 3.0, 4: -100.0}]),
)


def drawn(
    size: int, dice: int, spread: float, rounded: bool, holes: bool
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """`rounded`: many logits are equal; `holes`: many tokens are impossible."""
    random = np.random.default_rng(dice)
    logits = random.normal(size=size) * spread
    if rounded:
        logits = np.round(logits)
    if holes:
        logits[random.random(size) < 0.5] = -np.inf
        logits[0] = 0.0
    return logits.astype(np.float32)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sampling=samplings,
    size=st.sampled_from(SIZES),
    dice=st.integers(0, 2**32),
    seed=st.integers(0, 2**63),
    spread=st.sampled_from([0.01, 1.0, 3.0, 10.0]),
    rounded=st.booleans(),
    holes=st.booleans(),
    banned=st.booleans(),
    history=st.lists(st.integers(0, 4), min_size=1, max_size=80),
)
def test_native_picks_are_the_samplers(
    pickers: dict[int, NativePicker],
    sampling: Sampling,
    size: int,
    dice: int,
    seed: int,
    spread: float,
    rounded: bool,
    holes: bool,
    banned: bool,
    history: list[int],
) -> None:
    vocabulary = Vocabulary(size)
    logits = drawn(size, dice, spread, rounded, holes)
    kept = logits.copy()
    sampler = TokenSampler(sampling, seed, vocabulary, banned=vocabulary.end_tokens if banned else frozenset())
    assert sampler.rule is not None
    found = pickers[size].pick(logits, RuleHolder(sampler.rule), np.array(history, np.int32), judges=2)
    assert np.array_equal(logits, kept)
    if found.token == ASKS:
        assert sampling.temperature > 0.0, "comparisons alone never leave a doubt"
        return
    assert found.token == sampler.pick(logits, history)
    guess = judge(logits, found.token, True)
    assert (found.sure, found.other_sure) == pytest.approx(
        (guess.confidence, guess.other_confidence), rel=1e-5, abs=1e-30
    )
    assert found.other == guess.other


@pytest.mark.parametrize("size", SIZES)
def test_it_seldom_asks(pickers: dict[int, NativePicker], size: int) -> None:
    sampling = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    asked = 0
    for seed in range(200):
        sampler = TokenSampler(sampling, seed, Vocabulary(size))
        assert sampler.rule is not None
        logits = drawn(size, seed, 3.0, rounded=False, holes=False)
        asked += pickers[size].pick(logits, RuleHolder(sampler.rule), np.array([1], np.int32)).token == ASKS
    assert asked <= 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_left_to_the_sampler(pickers: dict[int, NativePicker], bad: float) -> None:
    logits = np.zeros(1000, np.float32)
    logits[77] = bad
    sampler = TokenSampler(Sampling(), 0, Vocabulary(1000))
    assert sampler.rule is not None
    assert pickers[1000].pick(logits, RuleHolder(sampler.rule), np.array([1], np.int32)).token == ASKS


@pytest.mark.parametrize(
    "sampling", [Sampling(typical_p=0.9), Sampling(dry_multiplier=0.8), Sampling(temperature=1.0, typical_p=0.5)]
)
def test_some_samplers_have_no_rule(sampling: Sampling) -> None:
    assert TokenSampler(sampling, 0, Vocabulary(64)).rule is None
