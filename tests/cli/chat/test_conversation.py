"""What is said and typed in a chat, and the lines under its answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.chat.command import question_from
from twd.cli.chat.commands import HELP, ChatCommand, UnknownCommand, help_lines, parse_command, question_of
from twd.cli.chat.conversation import ChatTurn, Conversation, LineJoiner
from twd.cli.chat.figures import compared, comparison_document, figures, parting
from twd.cli.chat.screen import harmless
from twd.cli.chat.stream import AnswerFacts, AnswerUsage, StreamedAnswer


def test_a_conversation_becomes_a_request() -> None:
    talk = Conversation("m", system="be brief", temperature=0.0, max_tokens=5)
    talk.ask("hi")
    talk.answered("hello")
    talk.ask("more")
    request = talk.request(direct=True, seed=3)
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "user"]
    assert (request["temperature"], request["max_tokens"], request["seed"]) == (0.0, 5, 3)
    assert request["twd"] == {"speculation": "off"}
    assert "twd" not in talk.request(direct=False, seed=None)
    assert "seed" not in talk.request(direct=False, seed=None)


def test_a_question_without_an_answer_gives_way() -> None:
    talk = Conversation()
    talk.ask("one")
    talk.ask("two")
    assert talk.turns == [ChatTurn("user", "two")]
    talk.answered("")
    assert talk.waits
    talk.answered("an answer")
    talk.answered("a second one is nobody's")
    assert [turn.content for turn in talk.turns] == ["two", "an answer"]


def test_an_answer_can_be_taken_back() -> None:
    talk = Conversation()
    assert not talk.take_back()
    talk.ask("one")
    talk.answered("answer")
    assert talk.take_back()
    assert talk.take_back()
    assert talk.turns == [ChatTurn("user", "one")]
    talk.forget()
    assert not talk.waits


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "one", "", '"""'], "one\n\n"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""all of it"""'], "all of it"),
        (['"""', "a \\", '/quit"""'], "a \\\n/quit"),
    ],
)
def test_lines_are_joined(typed: list[str], whole: str) -> None:
    lines = LineJoiner()
    for line in typed[:-1]:
        assert lines.add(line) is None
        assert lines.open
    assert lines.add(typed[-1]) == whole
    assert not lines.open


def test_what_was_begun_can_be_dropped() -> None:
    lines = LineJoiner()
    lines.add('"""begun')
    lines.drop()
    assert not lines.open
    assert lines.add("fresh") == "fresh"


@given(st.sampled_from(["", "/", "//", *HELP, *(f"{name} " for name in HELP)]), st.text(max_size=8))
def test_any_line_is_a_command_a_question_or_refused(begins: str, goes_on: str) -> None:
    line = begins + goes_on
    try:
        command = parse_command(line)
    except UnknownCommand:
        assert line.startswith("/")
        return
    if command is None:
        assert question_of(line) == (line[1:] if line.startswith("//") else line)
    else:
        assert command.name in HELP


def test_commands() -> None:
    assert parse_command("/model  small ") == ChatCommand("/model", "small")
    assert parse_command("/q") == ChatCommand("/quit")
    assert parse_command("what is /etc?") is None
    assert question_of("//etc is what?") == "/etc is what?"
    with pytest.raises(UnknownCommand, match="/retry"):
        parse_command("/retri")
    assert len(help_lines()) > len(HELP)
    assert max(map(len, help_lines())) < 80


def answer(text: str, rate: float, **facts: Any) -> StreamedAnswer:
    usage = AnswerUsage(prompt_tokens=3, completion_tokens=8, total_tokens=11)
    told = AnswerFacts(seed=5, tokens_per_second=rate, **facts)
    return StreamedAnswer(text, "m", "stop", usage, told, True, 4, 0.25, 1.0)


def test_figures_say_what_drafts_did() -> None:
    line = figures(answer("x", 60.0, mode="speculate", checked=8, taken=6, tokens_per_pass=2.0))
    assert line == "8 tokens, 60.0 tok/s, first after 0.25 s, 6 of 8 guesses held (75%), 2.00 tokens a pass, seed 5"
    assert "no drafts" in figures(answer("x", 60.0, mode="direct"))
    assert "no guesses checked" in figures(answer("x", 60.0))
    assert figures(StreamedAnswer(text="x", pieces=1, finish_reason="length")) == "1 token, cut at the token limit"


def test_two_answers_are_compared() -> None:
    fast, slow = answer("same", 60.0, checked=4, taken=4), answer("same", 20.0, mode="direct")
    assert compared(fast, slow)[-1] == "3.00 times as fast, same text"
    assert comparison_document(fast, slow)["equal"] is True
    assert comparison_document(fast, slow)["ratio"] == 3.0
    other = answer("sane", 20.0)
    assert "TEXT DIFFERS from character 2" in compared(fast, other)[-1]
    assert parting("ab", "abc").startswith("TEXT DIFFERS from character 2")


def test_a_model_cannot_command_the_terminal() -> None:
    assert harmless("a\x1b[2Jb\x07\x9bc\r\n\tü 👋") == "a[2Jbc\n\tü 👋"


def test_what_is_piped_in_comes_after_the_question() -> None:
    assert question_from(" sum up: ", "text\n") == "sum up:\n\ntext"
    assert question_from("", "text\n") == "text"
    assert question_from("", " \n") == ""
