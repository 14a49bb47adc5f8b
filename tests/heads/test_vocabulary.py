"""A head guesses the tokens that were written most often, and no others."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contrib.benchmarks.product.prompts import OWN, read_prompts
from contrib.heads.prompts import prompts
from contrib.heads.vocabulary import coverage, draft_vocabulary, places

WHOLE = 50


def test_the_most_frequent_ones_are_in_it() -> None:
    written = np.array([7] * 5 + [3] * 4 + [40] * 3 + [9], np.int32)
    found = draft_vocabulary(written, WHOLE, 3)
    assert found.tolist() == [3, 7, 40]
    assert coverage(written, found) == 12 / 13


def test_the_end_of_a_text_is_in_it_even_if_it_is_rare() -> None:
    assert draft_vocabulary(np.array([7, 7, 3, 3, 40], np.int32), WHOLE, 2, always=[49]).tolist() == [3, 49]


@given(st.lists(st.integers(0, WHOLE - 1)), st.integers(1, 2 * WHOLE), st.sets(st.integers(0, WHOLE - 1), max_size=3))
def test_it_has_the_size_that_was_wanted_and_each_token_once(written: list[int], size: int, always: set[int]) -> None:
    size = max(size, len(always))
    found = draft_vocabulary(np.array(written, np.int32), WHOLE, size, always)
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == min(size, WHOLE)
    assert always <= set(found.tolist())
    small = places(found, WHOLE)
    assert [small[token] for token in found] == list(range(len(found)))
    assert (small >= 0).sum() == len(found)


def test_no_prompt_of_the_benchmark_is_learned() -> None:
    own = prompts()
    asked = {message["content"] for question in read_prompts(OWN) for message in question.messages}
    assert len(set(own)) > 500
    assert not asked & set(own)
