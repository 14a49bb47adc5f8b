"""A streamed answer, read however it is cut; and what cannot be read, said in words."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.chat.stream import LINE_BYTES_MAX, AnswerReader
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

FACTS = {
    "job": "job-1",
    "mode": "speculate",
    "seed": 7,
    "acceptance": 0.5,
    "tokens_per_pass": 1.5,
    "passes": 2,
    "checked": 4,
    "taken": 2,
    "tokens_per_second": 30.0,
    "later": "unknown fields are left aside",
}


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str | None, finish: str | None = None) -> bytes:
    return event(model="m", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


WHOLE = (
    b": keep-alive\n\n"
    + piece("")
    + piece("wör")
    + b"event: message\r\n"
    + piece("ld 👋")
    + piece(None, "stop")
    + event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, twd=FACTS)
    + b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    reader = AnswerReader()
    places = [0, *sorted(cuts), len(WHOLE)]
    text = "".join(reader.feed(WHOLE[a:b], 1.0) for a, b in pairwise(places))
    reader.end()
    answer = reader.answer
    assert text == answer.text == "wörld 👋"
    assert (answer.done, answer.finish_reason, answer.model, answer.tokens) == (True, "stop", "m", 2)
    assert answer.facts is not None
    assert (answer.facts.seed, answer.rate) == (7, 30.0)
    assert answer.document()["twd"]["taken"] == 2


def test_a_server_that_counts_nothing_is_measured_by_its_pieces() -> None:
    reader = AnswerReader()
    for number in range(5):
        reader.feed(piece("x"), 1.0 + number)
    assert (reader.answer.tokens, reader.answer.rate, reader.answer.first_s) == (5, 1.0, 1.0)
    assert reader.answer.document()["usage"] is None


@pytest.mark.parametrize("cut", [b"", piece("half"), b"data: {"])
def test_a_stream_that_just_ends_broke_off(cut: bytes) -> None:
    reader = AnswerReader()
    reader.feed(cut, 0.1)
    with pytest.raises(CommandError, match="broke off") as error:
        reader.end()
    assert error.value.exit_code is ExitCode.UNHEALTHY


@pytest.mark.parametrize(
    "trouble",
    [{"error": {"message": "no memory", "code": "out_of_memory", "advice": "Free some."}}, {"error": "no memory"}],
)
def test_an_error_in_the_middle_is_told(trouble: dict[str, object]) -> None:
    with pytest.raises(CommandError, match="broke off: no memory"):
        AnswerReader().feed(event(**trouble), 0.1)


@pytest.mark.parametrize(
    "nonsense",
    [b"data: {\n", b"data: \xff\n", b"data: []\n", b'data: {"choices": 5}\n', b"data: " + b"[" * 9999 + b"\n"],
)
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(CommandError, match="makes no sense"):
        AnswerReader().feed(nonsense, 0.1)


def test_an_endless_line_is_not_kept() -> None:
    with pytest.raises(CommandError, match="makes no sense"):
        AnswerReader().feed(b"x" * (LINE_BYTES_MAX + 1), 0.1)


def test_thoughts_are_told_apart() -> None:
    heard: list[str] = []
    reader = AnswerReader(heard.append)
    thoughts = [event(choices=[{"index": 0, "delta": {"reasoning_content": text}}]) for text in ("Let me", " see")]
    text = "".join(reader.feed(data, 1.0 + at) for at, data in enumerate([*thoughts, piece("Oslo", "stop")]))
    reader.end()
    assert (text, reader.answer.text, reader.answer.thought) == ("Oslo", "Oslo", "Let me see")
    assert heard == ["Let me", " see"]
    assert (reader.answer.first_s, reader.answer.pieces) == (1.0, 3)
    assert reader.answer.document()["thought"] == "Let me see"
