"""Thoughts are told apart from what is answered, however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.stream import ToolCallStream
from twd.edge.reading import AnswerParser, PlainAnswerParser, ThoughtStream, in_one
from twd.wire.job import Thoughts

MARKS = Thoughts("<think>", "</think>")
OPEN = Thoughts("<think>", "</think>", open=True)


def read(pieces: list[str], marks: Thoughts = MARKS, reader: AnswerParser | None = None) -> list[Delta]:
    stream = ThoughtStream(marks, reader or PlainAnswerParser())
    return [delta for piece in pieces for delta in stream.feed(piece)] + stream.finish()


def test_what_goes_on_as_one_is_one() -> None:
    start, other = ToolCallStart(0, "f"), ToolCallStart(1, "g")
    pieces: list[Delta] = [
        ThoughtDelta("a"), ThoughtDelta("b"), ContentDelta("c"), ContentDelta("d"), start, ToolCallArguments(0, "{"),
        ToolCallArguments(0, "}"), other, ToolCallArguments(1, "{}"), ContentDelta("e"),
    ]  # fmt: skip
    assert in_one(pieces) == [
        ThoughtDelta("ab"), ContentDelta("cd"), start, ToolCallArguments(0, "{}"), other, ToolCallArguments(1, "{}"),
        ContentDelta("e"),
    ]  # fmt: skip
    assert in_one([]) == []


def parts(deltas: list[Delta]) -> tuple[str, str]:
    """What was thought, and what was answered."""
    thoughts = "".join(delta.text for delta in deltas if isinstance(delta, ThoughtDelta))
    return thoughts, "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))


WHOLE = [
    ("<think>\nLet me see.\n\nYes.\n</think>\n\nOslo.\n", MARKS, ("Let me see.\n\nYes.", "Oslo.\n")),
    ("\n<think>so</think>Oslo", MARKS, ("so", "Oslo")),
    ("<think>\n\n</think>\n\nOslo", MARKS, ("", "Oslo")),
    ("Let me see.\n</think>\n\nOslo", OPEN, ("Let me see.", "Oslo")),
    ("</think>Oslo", OPEN, ("", "Oslo")),
    ("<think>cut in the mid", MARKS, ("cut in the mid", "")),
    ("cut <b>in</b> </thin", OPEN, ("cut <b>in</b> </thin", "")),
    ("<think>a</think>b <think>c</think>", MARKS, ("a", "b <think>c</think>")),
    ("  Oslo, not <think>x</think>", MARKS, ("", "  Oslo, not <think>x</think>")),
    ("<thinking>Oslo", MARKS, ("", "<thinking>Oslo")),
    ("<thi", MARKS, ("", "<thi")),
    ("</think>Oslo", MARKS, ("", "</think>Oslo")),
    (" \n", MARKS, ("", " \n")),
    ("", OPEN, ("", "")),
]


@pytest.mark.parametrize(("text", "marks", "expected"), WHOLE)
def test_thoughts_stand_at_the_beginning_once(text: str, marks: Thoughts, expected: tuple[str, str]) -> None:
    assert parts(read([text], marks)) == expected
    assert parts(read(list(text), marks)) == expected


@given(st.sampled_from(WHOLE), st.data())
def test_it_does_not_matter_how_the_text_is_cut(
    case: tuple[str, Thoughts, tuple[str, str]], data: st.DataObject
) -> None:
    text, marks, expected = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parts(read(pieces, marks)) == expected


@given(st.lists(st.sampled_from(["<", "think", ">", "</", " ", "\n", "a", "ö"]), max_size=12))
def test_a_text_without_thoughts_passes_letter_by_letter(words: list[str]) -> None:
    text = "".join(words)
    thoughts, answer = parts(read(words))
    assert answer == text or text.lstrip().startswith("<think>")
    assert not thoughts or text.lstrip().startswith("<think>")


def test_thoughts_come_as_they_are_thought() -> None:
    stream = ThoughtStream(OPEN, PlainAnswerParser())
    told = [(stream.feed(text), stream.thinking) for text in ("Let me", " \n", "see</", "think>\n", "Os")]
    assert told == [
        ([ThoughtDelta("Let me")], True),
        ([], True),
        ([ThoughtDelta(" \nsee")], True),
        ([], False),
        ([ContentDelta("Os")], False),
    ]


def test_calls_are_read_behind_thoughts_only() -> None:
    text = '<think>\nI could write <tool_call>{"name": "f"}.\n</think>\n\n{"name": "f", "arguments": {}}'
    deltas = read(list(text), reader=ToolCallStream({"f": {}}))
    assert parts(deltas) == ('I could write <tool_call>{"name": "f"}.', "")
    assert ToolCallStart(0, "f") in deltas
