"""Guesses that were written down come as they were, at their pace, and cost nothing."""

from pathlib import Path

import pytest

from tests.model_fixtures import model_cache, q4_path
from twd.bench.recorded import RecordedText, Recording, ReplayedModel, confidence, write_down
from twd.bench.ring.drafter import DraftPlan, LocalDraftModel
from twd.decoding.window import Logits, Window
from twd.drafter.draft import Guess
from twd.wire.failures import TwdError
from twd.wire.job import TokenLogprob

__all__ = ["model_cache", "q4_path"]

RECORDING = Recording([RecordedText([5, 6, 7, 8], {2: Guess(7, 0.9), 3: Guess(9, 0.4)})], lambda rows: 3.0 + rows, 64)


def report(logits: Logits, token: int) -> TokenLogprob:
    return TokenLogprob(token=token, text="", logprob=confidence(logits, token, False).confidence)


def test_what_was_written_down_is_said_at_its_pace() -> None:
    slept: list[float] = []
    model = ReplayedModel(RECORDING, slept.append)
    slot, cached = model.open([5, 6], model, report)
    assert cached == 0
    model.submit([Window(slot, 0, 0, (5, 6), committed=2)])
    (first,) = model.collect()
    model.submit([Window(slot, 0, 2, (7,))])
    (second,) = model.collect()
    model.submit([Window(slot, 0, 3, (9,))])
    (third,) = model.collect()
    said = [(one.tokens[0], round(one.logprobs[0].logprob, 3)) for one in (first, second, third)]
    assert said == [(7, 0.9), (9, 0.4), (0, 0.0)]
    assert slept == pytest.approx([0.005, 0.004, 0.004])


def test_an_unknown_text_is_refused() -> None:
    with pytest.raises(TwdError, match="no guesses were written down"):
        ReplayedModel(RECORDING).open([5, 9], ReplayedModel(RECORDING))


@pytest.mark.model
def test_what_is_written_down_is_what_the_model_says(q4_path: Path) -> None:
    model = LocalDraftModel(DraftPlan(q4_path))
    try:
        prompt = model.native.tokenize("The sea is large. The sea is large. The sea is")
        text = model.native.tokenize(" large. The moon is large.")
        recording = write_down(model.native, [prompt], [text])
        again = write_down(model.native, [[*prompt, *text[:2]]], [text[2:]])
    finally:
        model.close()
    (told,), (later,) = recording.texts, again.texts
    ends = len(prompt) + len(text)
    assert sorted(told.guesses) == list(range(len(prompt), ends + 1))
    assert told.guesses[len(prompt)].token == text[0]
    assert sorted(later.guesses) == list(range(len(prompt) + 2, ends + 1))
    assert {place: guess.token for place, guess in later.guesses.items()} == {
        place: told.guesses[place].token for place in later.guesses
    }
    assert 0 < recording.cost(1) < recording.cost(16)
