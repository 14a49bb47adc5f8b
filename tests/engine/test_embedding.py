"""Vectors of texts: of length one, the same in whatever company, near where texts are near."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.waiting import wait_until
from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.embedding import ROWS, Embedder, Vector
from twd.engine.model import LoadedGguf
from twd.wire.failures import FailureCode, TwdError

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def embedder(q4: LoadedGguf) -> Iterator[Embedder]:
    one = Embedder(q4, ContextSettings(ctx_size=256, parallel=3, threads=1))
    yield one
    one.close()


def vector(embedder: Embedder, model: LoadedGguf, text: str) -> Vector:
    return embedder.embed(model.vocab.tokenize(text, parse_special=False, add_bos=True))


def test_vectors_have_length_one_and_do_not_depend_on_what_came_before(embedder: Embedder, q4: LoadedGguf) -> None:
    first = vector(embedder, q4, "A lighthouse stands on the rock.")
    assert first.shape == (embedder.dimensions,)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    vector(embedder, q4, "Something else entirely, " * 8)
    assert np.array_equal(first, vector(embedder, q4, "A lighthouse stands on the rock."))


def test_texts_that_are_near_have_vectors_that_are_near(embedder: Embedder, q4: LoadedGguf) -> None:
    tower, beacon, invoice = (
        vector(embedder, q4, text)
        for text in ("The lighthouse by the sea.", "A lighthouse at the coast.", "SELECT sum(amount) FROM invoices;")
    )
    assert tower @ beacon > tower @ invoice


def test_a_text_longer_than_one_pass_is_read_whole(embedder: Embedder) -> None:
    tokens = [number % 97 for number in range(ROWS + 5)]
    whole = embedder.embed(tokens)
    assert not np.allclose(whole, embedder.embed(tokens[:ROWS]))
    assert not np.allclose(whole, embedder.embed(tokens[ROWS:]))


@pytest.mark.parametrize(("tokens", "code"), [([], FailureCode.BAD_REQUEST), ([1] * 257, FailureCode.CONTEXT_OVERFLOW)])
def test_what_has_no_vector_is_refused(embedder: Embedder, tokens: list[int], code: FailureCode) -> None:
    with pytest.raises(TwdError) as caught:
        embedder.embed(tokens)
    assert (caught.value.code, caught.value.failure.field) == (code, "input")


def test_to_close_it_is_to_wait_for_a_pass_and_not_for_a_text(q4: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    one, passes = Embedder(q4, ContextSettings(ctx_size=256, threads=1)), 0
    closing, decode = threading.Thread(target=one.close), Context.decode

    def close_meanwhile(context: Context, rows: BatchTokens) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            closing.start()
            wait_until(lambda: one._closed or passes > 1, "it is being closed", 5)
        decode(context, rows)

    monkeypatch.setattr(Context, "decode", close_meanwhile)
    with pytest.raises(TwdError) as caught:
        one.embed([1] * 256)
    closing.join(30)
    assert passes == 1
    assert caught.value.failure.retry


def test_a_closed_one_makes_nothing(q4: LoadedGguf) -> None:
    one = Embedder(q4, ContextSettings(ctx_size=64))
    one.close()
    with pytest.raises(TwdError) as caught:
        one.embed([1])
    assert caught.value.failure.retry
