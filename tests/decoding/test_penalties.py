"""Bias, penalties and DRY change the logits as llama.cpp's own samplers do."""

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_cpp as llama

from tests.engine.llama_samplers import applied
from tests.properties import examples
from twd.decoding.noise import Logits
from twd.decoding.penalties import adjustments_of
from twd.engine.model import LoadedGguf
from twd.wire.job import Sampling

SIZE = 60
TEXT = {7: b"\n", 8: b"a:b", 9: b'say "'}


def piece(token: int) -> bytes:
    """Tokens that break repetitions, and plain ones."""
    return TEXT.get(token, b"w%d" % token)


def adjusted(sampling: Sampling, logits: Logits, history: list[int]) -> Logits:
    """The logits after all adjustments."""
    copy = logits.copy()
    for adjust in adjustments_of(sampling, piece):
        adjust(copy, history)
    return copy


def logits_of(seed: int) -> Logits:
    """Some logits of either sign."""
    return (np.random.default_rng(seed).standard_normal(SIZE) * 4).astype(np.float32)


@given(
    st.lists(st.integers(0, SIZE - 1), max_size=100),
    st.sampled_from([1, 5, 64, -1]),
    st.sampled_from([1.0, 1.1, 2.0, 0.5]),
    st.sampled_from([0.0, 0.4, -1.0]),
    st.sampled_from([0.0, 0.7]),
)
@examples(150)
def test_penalties_are_llamas(history: list[int], last: int, repeat: float, frequency: float, liveness: float) -> None:
    sampling = Sampling(
        repeat_last_n=last, repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=liveness
    )
    logits = logits_of(len(history))
    window = 100 if last < 0 else last
    sampler = llama.llama_sampler_init_penalties(SIZE, window, repeat, frequency, liveness)
    theirs = applied(sampler, logits, history)
    assert adjusted(sampling, logits, history).tolist() == pytest.approx([theirs[i] for i in range(SIZE)], rel=1e-5)


def test_bias_is_llamas_and_comes_first() -> None:
    logits = logits_of(5)
    bias = {3: 2.5, 40: -100.0}
    entries = (llama.llama_logit_bias * 2)(*(llama.llama_logit_bias(token=t, bias=b) for t, b in bias.items()))
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_logit_bias(SIZE, 2, entries))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_penalties(SIZE, 64, 1.5, 0.0, 0.0))
    theirs = applied(chain, logits, [3, 40])
    ours = adjusted(Sampling(logit_bias=bias, repeat_penalty=1.5), logits, [3, 40])
    assert ours.tolist() == pytest.approx([theirs[i] for i in range(SIZE)], rel=1e-5)


@given(
    st.lists(st.integers(0, 4), max_size=80),
    st.sampled_from([5, 64, -1]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1.0, 1.75, 3.0]),
)
@examples(150)
def test_dry_is_llamas(history: list[int], last: int, allowed: int, base: float) -> None:
    """Without breakers, whose search in llama.cpp needs a whole vocabulary."""
    sampling = Sampling(repeat_last_n=last, dry_multiplier=0.8, dry_base=base, dry_allowed_length=allowed)
    logits = logits_of(len(history))
    window = 100 if last < 0 else last
    sampler = llama.llama_sampler_init_dry(None, 0.8, base, allowed, window, (ctypes.c_char_p * 0)(), 0)
    theirs = applied(sampler, logits, history)
    assert adjusted(sampling, logits, history).tolist() == pytest.approx([theirs[i] for i in range(SIZE)], rel=1e-4)


def test_dry_stops_at_a_breaker() -> None:
    sampling = Sampling(dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=2)
    zeros = np.zeros(SIZE, dtype=np.float32)
    assert adjusted(sampling, zeros, [1, 2, 3, 4, 5, 1, 2, 3])[4] == -2.0
    assert adjusted(sampling, zeros, [1, 7, 3, 4, 5, 1, 7, 3])[4] == 0.0
    assert adjusted(sampling, zeros, [1, 2, 3, 7, 5, 1, 2, 3])[7] == 0.0


def test_nothing_asked_changes_nothing() -> None:
    assert adjustments_of(Sampling(), piece) == ()
    assert adjustments_of(Sampling(repeat_last_n=0, repeat_penalty=2.0, dry_multiplier=1.0), piece) == ()


def test_foreign_tokens_in_the_history_are_ignored() -> None:
    sampling = Sampling(repeat_penalty=2.0, dry_multiplier=1.0, repeat_last_n=-1)
    logits = logits_of(6)
    assert adjusted(sampling, logits, [10**6, 10**6, 10**6]).tolist() == logits.tolist()
    assert adjusted(sampling, logits, []).tolist() == logits.tolist()


@pytest.mark.model
def test_dry_with_breakers_is_llamas_on_a_real_vocabulary(q4: LoadedGguf) -> None:
    vocab = q4.vocab
    text = 'He said: "the cat sat on the mat", and\nthe cat sat on the mat, and the cat sat on the mat, and the cat'
    history = vocab.tokenize(text, parse_special=False, add_bos=False)
    breakers = (ctypes.c_char_p * 4)(b"\n", b":", b'"', b"*")
    for length in range(len(history) - 8, len(history)):
        logits = np.zeros(vocab.size, dtype=np.float32)
        handle = llama.llama_model_get_vocab(q4.handle)
        sampler = llama.llama_sampler_init_dry(handle, 0.8, 1.75, 2, 64, breakers, 4)
        theirs = applied(sampler, logits, history[:length])
        for adjust in adjustments_of(Sampling(dry_multiplier=0.8), vocab.piece):
            adjust(logits, history[:length])
        punished = np.flatnonzero(logits).tolist()
        assert punished == sorted(token for token, logit in theirs.items() if logit != 0.0)
        assert logits[punished].tolist() == pytest.approx([theirs[token] for token in punished], rel=1e-4)
