"""Log probabilities are those of the raw distribution."""

import numpy as np
import pytest

from twd.decoding.logprobs import token_logprob


def piece(token: int) -> bytes:
    """Half a character for token 1, letters for the rest."""
    return b"\xf0\x9f" if token == 1 else b"%c" % (97 + token)


def test_logprobs_and_alternatives() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = (np.log(probabilities) + 3).astype(np.float32)
    found = token_logprob(logits, 2, 2, piece)
    assert found.token == 2
    assert found.text == "c"
    assert found.logprob == pytest.approx(np.log(0.15), abs=1e-6)
    assert [top.token for top in found.top] == [0, 1]
    assert [top.logprob for top in found.top] == pytest.approx(np.log([0.5, 0.3]), abs=1e-6)
    assert found.top[1].bytes == [0xF0, 0x9F]
    assert found.top[1].text == "�"


def test_an_impossible_token_has_a_finite_logprob() -> None:
    logits = np.array([0.0, -np.inf, 1e30], dtype=np.float32)
    assert token_logprob(logits, 1, 0, piece).logprob == -9999.0
    assert token_logprob(logits, 2, 3, piece).logprob == 0.0


def test_without_alternatives_none_are_listed() -> None:
    assert token_logprob(np.zeros(4, dtype=np.float32), 0, 0, piece).top == []
