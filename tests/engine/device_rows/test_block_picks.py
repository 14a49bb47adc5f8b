"""Picks from a few blocks of a row are those from all of it, whatever the logits and the rules."""

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.steps.test_picking import Vocabulary, drawn, samplings
from twd.decoding.sampler import TokenSampler
from twd.decoding.window import Logits
from twd.engine.steps.binding import RuleHolder
from twd.wire.job import Sampling

ASKS = -1
SHAPES = ((8, 8), (16, 64), (64, 64), (61, 82))
"""How many blocks of how many numbers."""
Pick = Callable[[Logits, int, Logits | None, RuleHolder, Sequence[int]], tuple[int, int]]


@pytest.fixture(scope="module")
def pick(loop_library: ctypes.CDLL) -> Pick:
    """Chooses from a row with blocks of such a length; gives the token and how many blocks were looked at."""
    native = loop_library.twd_block_pick
    pointer, whole = ctypes.c_void_p, ctypes.c_int32
    native.argtypes, native.restype = [pointer, whole, whole, pointer, pointer, pointer, whole, pointer], whole

    def call(
        logits: Logits, length: int, weights: Logits | None, rule: RuleHolder, history: Sequence[int]
    ) -> tuple[int, int]:
        told, looked_at, text = None if weights is None else weights.ctypes.data, whole(), np.array(history, np.int32)
        count = len(logits) // length
        row = (logits.ctypes.data, length, count, told, rule.address, text.ctypes.data, len(text))
        return int(native(*row, ctypes.byref(looked_at))), looked_at.value

    return call


def weights_of(logits: Logits, length: int) -> Logits:
    """As a device computes them."""
    blocks = logits.reshape(-1, length)
    with np.errstate(invalid="ignore"):
        shares = np.exp(blocks - blocks.max(axis=1, keepdims=True))
    sums: Logits = shares.sum(axis=1, dtype=np.float32)
    return sums


def rule_of(sampler: TokenSampler) -> RuleHolder:
    assert sampler.rule is not None
    return RuleHolder(sampler.rule)


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sampling=samplings,
    shape=st.sampled_from(SHAPES),
    dice=st.integers(0, 2**32),
    seed=st.integers(0, 2**63),
    spread=st.sampled_from([0.01, 1.0, 3.0, 10.0]),
    rounded=st.booleans(),
    holes=st.booleans(),
    banned=st.booleans(),
    weighed=st.booleans(),
    history=st.lists(st.integers(0, 70), min_size=1, max_size=80),
)
def test_they_are_the_samplers(
    pick: Pick,
    sampling: Sampling,
    shape: tuple[int, int],
    dice: int,
    seed: int,
    spread: float,
    rounded: bool,
    holes: bool,
    banned: bool,
    weighed: bool,
    history: list[int],
) -> None:
    length, count = shape
    vocabulary = Vocabulary(length * count)
    logits = drawn(vocabulary.size, dice, spread, rounded, holes)
    sampler = TokenSampler(sampling, seed, vocabulary, banned=vocabulary.end_tokens if banned else frozenset())
    weights = weights_of(logits, length) if weighed else None
    token, _ = pick(logits, length, weights, rule_of(sampler), history)
    assert token == ASKS or token == sampler.pick(logits, history)


USUAL = (
    Sampling(),
    Sampling(repeat_penalty=1.1),
    Sampling(temperature=0.8, min_p=0.05),
    Sampling(temperature=0.7, top_p=0.9),
    Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.1, logit_bias={5: 2.0}),
    Sampling(temperature=1.0),
)


def peaked(size: int, dice: int) -> Logits:
    """As language models give them: a few tokens are far likelier than all others."""
    random = np.random.default_rng(dice)
    logits = random.normal(size=size) * 2.0
    logits[random.integers(0, size, 12)] += 10.0 + random.exponential(3.0, 12)
    return logits.astype(np.float32)


@pytest.mark.parametrize("sampling", USUAL)
def test_a_small_part_of_a_usual_row_is_enough(pick: Pick, sampling: Sampling) -> None:
    length, count = 256, 192
    vocabulary, asked, looked_at = Vocabulary(length * count), 0, 0
    for seed in range(40):
        logits = peaked(vocabulary.size, seed)
        sampler = TokenSampler(sampling, seed, vocabulary)
        token, blocks = pick(logits, length, weights_of(logits, length), rule_of(sampler), range(seed, seed + 50))
        assert token == ASKS or token == sampler.pick(logits, range(seed, seed + 50))
        asked += token == ASKS
        looked_at += blocks
    assert asked == 0
    assert looked_at <= 6 * 40, "of 192 each"


@pytest.mark.parametrize("wrong", [0.9, 1.1, np.nan, np.inf, -1.0])
def test_sums_that_are_not_those_of_the_blocks_are_not_believed(pick: Pick, wrong: float) -> None:
    logits = peaked(64 * 64, 7)
    sampler = TokenSampler(Sampling(temperature=1.0, top_p=0.9), 3, Vocabulary(len(logits)))
    token, looked_at = pick(logits, 64, weights_of(logits, 64) * np.float32(wrong), rule_of(sampler), [1])
    assert token == ASKS
    assert looked_at > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_left_to_the_sampler(pick: Pick, bad: float) -> None:
    logits = peaked(64 * 64, 7)
    logits[77] = bad
    sampler = TokenSampler(Sampling(temperature=1.0), 0, Vocabulary(len(logits)))
    assert pick(logits, 64, None, rule_of(sampler), [1])[0] == ASKS


def test_where_all_are_alike_the_whole_row_is_asked_for(pick: Pick) -> None:
    logits = np.zeros(64 * 64, np.float32)
    sampler = TokenSampler(Sampling(temperature=1.0), 0, Vocabulary(len(logits)))
    token, looked_at = pick(logits, 64, weights_of(logits, 64), rule_of(sampler), [1])
    assert token in (ASKS, sampler.pick(logits, [1]))
    assert looked_at <= 16


def test_a_bias_lifts_a_token_out_of_a_block_of_low_ones(pick: Pick) -> None:
    logits = peaked(64 * 64, 7)
    token = int(logits.argmin())
    for temperature in (0.0, 1.0):
        sampler = TokenSampler(Sampling(temperature=temperature, logit_bias={token: 100.0}), 0, Vocabulary(len(logits)))
        assert pick(logits, 64, None, rule_of(sampler), [1]) == (token, 1)
