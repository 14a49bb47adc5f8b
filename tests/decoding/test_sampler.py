"""The choice of each token: pure, greedy or sampled, and clear about what it cannot do."""

import re

import numpy as np
import pytest

from tests.engine.words import Words
from twd.decoding.filters import top_k
from twd.decoding.noise import Logits, draw, strongest
from twd.decoding.sampler import SamplerFactory, TokenSampler
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind, Sampling

LETTERS = Words(chr(97 + index % 26) for index in range(4742))
"""5000 tokens."""


def sampler_of(sampling: Sampling, seed: int = 1) -> TokenSampler:
    """A picker over letters."""
    return TokenSampler(sampling, seed, LETTERS)


def test_greedy_takes_the_highest_and_the_lowest_id_on_a_tie() -> None:
    sampler = sampler_of(Sampling())
    assert sampler.pick(np.array([0.0, 3.0, 3.0, -np.inf], dtype=np.float32), [5]) == 1


def test_sampling_is_gumbel_max_at_the_position() -> None:
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    sampler = sampler_of(Sampling(temperature=0.8), seed=77)
    for length in (0, 1, 9, 300):
        assert sampler.pick(logits, [1] * length) == strongest(logits, 0.8, draw(77, length))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[0.0, np.nan, 1.0], [-np.inf, -np.inf], [0.0, np.inf]])
def test_broken_logits_are_a_typed_failure(temperature: float, bad: list[float]) -> None:
    sampler = sampler_of(Sampling(temperature=temperature))
    with pytest.raises(TwdError) as caught:
        sampler.pick(np.array(bad, dtype=np.float32), [])
    assert caught.value.code is FailureCode.INTERNAL


def test_filtered_sampling_keeps_the_noise_of_each_token() -> None:
    """A filter that would not have removed the winner does not change it."""
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    plain, filtered = sampler_of(Sampling(temperature=1.0), 5), sampler_of(Sampling(temperature=1.0, top_k=4900), 5)
    same = [plain.pick(logits, [0] * n) == filtered.pick(logits, [0] * n) for n in range(100)]
    assert np.mean(same) > 0.9


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(TwdError) as caught:
        sampler_of(Sampling(logit_bias={5000: 1.0}))
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
    fresh = [sampler_of(sampling, 3).pick(logits, history) for logits, history in calls]
    sampler = sampler_of(sampling, 3)
    for index in [*range(40), *rng.integers(40, size=200).tolist()]:
        assert sampler.pick(*calls[index]) == fresh[index]


def test_greedy_under_typical_p_takes_the_likeliest_of_the_typical() -> None:
    logits = np.log(np.array([0.4] + [0.06] * 10, dtype=np.float32))
    assert sampler_of(Sampling()).pick(logits, []) == 0
    assert sampler_of(Sampling(typical_p=0.3)).pick(logits, []) != 0


SMALL = Words()
PICKERS = SamplerFactory(SMALL)
LIST = Grammar(kind=GrammarKind.GBNF, text='root ::= "[" ([0-9]+ ("," [0-9]+)*)? "]"')


def small_logits(seed: int) -> Logits:
    """Logits over the small vocabulary."""
    return (np.random.default_rng(seed).standard_normal(SMALL.size) * 3).astype(np.float32)


def written(sampler: TokenSampler, prompt: list[int], longest: int = 60) -> list[int]:
    """The text that a picker makes of logits that depend on the position only."""
    history = list(prompt)
    while len(history) < len(prompt) + longest:
        history.append(sampler.pick(small_logits(len(history)), history))
        if history[-1] == SMALL.end:
            break
    return history[len(prompt) :]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), EVERYTHING])
def test_a_grammar_is_followed_to_its_end(sampling: Sampling) -> None:
    for seed in range(5):
        sampler = PICKERS.sampler(sampling, seed, prompt_len=3, grammar=LIST)
        text = written(sampler, [1, 2, 3 + seed], longest=4000)
        assert text[-1] == SMALL.end
        assert re.fullmatch(r"\[(\d+(,\d+)*)?\]", SMALL.text(text))


def test_a_choice_that_the_grammar_allows_stays() -> None:
    anything = Grammar(kind=GrammarKind.GBNF, text="root ::= [\x01-\x7f]*")
    for seed in range(20):
        free = PICKERS.sampler(EVERYTHING, seed, prompt_len=0).pick(small_logits(seed), [])
        bound = PICKERS.sampler(EVERYTHING, seed, prompt_len=0, grammar=anything).pick(small_logits(seed), [])
        if SMALL.piece(free).isascii() and SMALL.piece(free).strip(b"\0"):
            assert bound == free


def test_a_refused_choice_is_made_again_among_the_allowed() -> None:
    digits = Grammar(kind=GrammarKind.GBNF, text="root ::= [0-9]")
    logits = small_logits(4)
    logits[97] = 50.0
    allowed = np.arange(48, 58)
    assert PICKERS.sampler(Sampling(), 1, prompt_len=0, grammar=digits).pick(logits, []) == 48 + logits[48:58].argmax()
    picked = {
        PICKERS.sampler(Sampling(temperature=2.0, top_k=3), seed, prompt_len=0, grammar=digits).pick(logits, [])
        for seed in range(100)
    }
    assert picked == set(allowed[top_k(logits[allowed], 3)].tolist())


def test_the_grammar_sees_only_what_was_generated() -> None:
    one = PICKERS.sampler(Sampling(), 1, prompt_len=2, grammar=LIST)
    assert one.pick(small_logits(0), [5, 6]) == ord("[")
    with pytest.raises(TwdError) as caught:
        one.pick(small_logits(0), [5, 6, 7])
    assert caught.value.code is FailureCode.BAD_GRAMMAR


def test_end_tokens_are_banned_when_they_are_to_be_ignored() -> None:
    logits = small_logits(1)
    logits[SMALL.end] = 99.0
    for sampling in (Sampling(), Sampling(temperature=1.0)):
        assert PICKERS.sampler(sampling, 1, prompt_len=0).pick(logits, []) == SMALL.end
        assert PICKERS.sampler(sampling, 1, prompt_len=0, ignore_eos=True).pick(logits, []) != SMALL.end
    bound = PICKERS.sampler(Sampling(), 1, prompt_len=0, grammar=LIST, ignore_eos=True)
    assert bound.pick(logits, list(b"[]")) == SMALL.end


def test_a_grammar_on_any_branch_in_any_order() -> None:
    """Rollbacks, other branches and repeated questions change nothing."""
    sampling = Sampling(temperature=1.5, repeat_penalty=1.3)
    texts = [written(PICKERS.sampler(sampling, seed, prompt_len=0, grammar=LIST), []) for seed in range(6)]
    calls = [text[:length] for text in texts for length in range(len(text))]
    fresh = [
        PICKERS.sampler(sampling, 9, prompt_len=0, grammar=LIST).pick(small_logits(len(call)), call) for call in calls
    ]
    sampler = PICKERS.sampler(sampling, 9, prompt_len=0, grammar=LIST)
    rng = np.random.default_rng(2)
    for index in rng.integers(len(calls), size=300).tolist():
        assert sampler.pick(small_logits(len(calls[index])), calls[index]) == fresh[index]


def test_where_the_grammar_refused_the_first_choice_only_what_it_allows_counts() -> None:
    sampler = PICKERS.sampler(Sampling(), 1, prompt_len=0, grammar=LIST)
    logits = small_logits(3)
    logits[ord("[")], logits[ord("x")] = 50.0, 99.0
    assert sampler.pick(logits, []) == ord("[")
    seen = sampler.conformed(logits)
    assert seen[ord("[")] == 50.0
    assert {SMALL.piece(token)[:1] for token in np.flatnonzero(seen > -np.inf).tolist()} == {b"["}
    logits[ord("[")] = 100.0
    assert sampler.pick(logits, []) == ord("[")
    assert sampler.conformed(logits) is logits


def test_a_bad_grammar_is_refused_before_any_work() -> None:
    with pytest.raises(TwdError) as caught:
        PICKERS.sampler(Sampling(), 1, prompt_len=0, grammar=Grammar(kind=GrammarKind.GBNF, text="root ::= ("))
    assert caught.value.code is FailureCode.BAD_GRAMMAR


def test_logprobs_are_reported_when_asked() -> None:
    report = PICKERS.reporter(3)
    logits = small_logits(2)
    found = report(logits, 65)
    assert found.text == "A"
    assert [top.token for top in found.top] == np.argsort(-logits)[:3].tolist()
