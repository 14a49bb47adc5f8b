"""The model writes the question, too: what comes behind it, and when it is cut."""

import pytest

from contrib.heads.texts import Text, Writer
from twd.engine.model import LoadedGguf

TAIL = (5, 6, 7)
LONGEST, END = 120, 9


def written(model: LoadedGguf, text: Text) -> Text:
    writer = Writer(model, [0, 1, 1], together=1, longest=LONGEST, threads=1)
    writer._ends = frozenset({END})  # the tiny model has none
    try:
        return next(writer.write(iter([text])))
    finally:
        writer.context.close()


def test_a_question_without_end_is_cut_and_answered(tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrib.heads.texts._QUESTION_TOKENS", 20)
    found = written(tiny, Text([3, 4], 2, 0.0, tail=TAIL))
    assert not found.tail
    assert tuple(found.tokens[found.prompt - len(TAIL) : found.prompt]) == TAIL
    assert found.prompt <= 2 + 20 + 1 + len(TAIL)
    assert found.read >= found.prompt


def test_the_end_of_a_question_stands_in_the_tail_alone(tiny: LoadedGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "_picked", lambda *_: END)
    found = written(tiny, Text([3, 4], 2, 0.0, tail=TAIL))
    assert found.tokens == [3, 4, *TAIL, END]


def test_a_given_prompt_stays_as_it_is(tiny: LoadedGguf) -> None:
    found = written(tiny, Text([3, 4], 2, 0.0))
    assert found.prompt == 2
    assert found.tokens[:2] == [3, 4]
