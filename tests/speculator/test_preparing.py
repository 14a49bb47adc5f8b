"""Prompts of every kind become tokens; what a model cannot read is refused with the field that asked for it."""

import pytest

from twd.engine.chat_template import ChatTemplate
from twd.engine.model import Model
from twd.engine.pick import Pickers
from twd.speculator.preparing import Preparer
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Prompt

pytestmark = pytest.mark.model
AROUND = Prompt(text="def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2)) <|im_end|>")


@pytest.fixture(scope="module")
def preparer(q4: Model) -> Preparer:
    return Preparer(q4.vocab, ChatTemplate.of(q4.chat_template, q4.vocab), Pickers(q4.vocab), lambda: 1)


def test_a_suffix_needs_a_model_that_fills_in(preparer: Preparer) -> None:
    with pytest.raises(TwdError) as caught:
        preparer.tokens(AROUND)
    assert (caught.value.code, caught.value.failure.field) == (FailureCode.UNSUPPORTED, "suffix")


def test_the_middle_is_asked_for_between_the_marks(preparer: Preparer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparer.vocab, "middle_marks", (7, 8, 9))
    tokens = preparer.tokens(AROUND)
    assert [token for token in tokens if token in (7, 8, 9)] == [7, 8, 9]
    vocab = preparer.vocab
    before, after = tokens[tokens.index(7) + 1 : tokens.index(8)], tokens[tokens.index(8) + 1 : -1]
    assert (vocab.text(before), vocab.text(after)) == (AROUND.text, AROUND.suffix)
    assert not set(after) & vocab.end_tokens


def test_tokens_outside_the_vocabulary_are_refused(preparer: Preparer) -> None:
    assert preparer.tokens(Prompt(tokens=[1, 2])) == [1, 2]
    with pytest.raises(TwdError, match="vocabulary"):
        preparer.tokens(Prompt(tokens=[preparer.vocab.size]))
