"""Models that write in channels: thoughts, calls and the answer, however the text is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.conftest import OpenHouse
from tests.edge.fake_speculator import Script
from tests.edge.test_tools import WEATHER
from twd.chat.thoughts import CHANNELS
from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.edge.channels import ChannelStream

THOUGHT = "<|channel|>analysis<|message|>The capital of Norway?<|end|>"
ANSWER = "<|start|>assistant<|channel|>final<|message|>Oslo <|no mark|>.\n"
CALL = '<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}'
Parts = tuple[str, str, str, str]
"""Thought, answer, the function that is called, and with what."""


def read(pieces: list[str], *, calls: bool = True) -> Parts:
    stream = ChannelStream(calls=calls)
    deltas: list[Delta] = [delta for piece in pieces for delta in stream.feed(piece)] + stream.finish()
    thoughts = "".join(delta.text for delta in deltas if isinstance(delta, ThoughtDelta))
    answer = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    names = ",".join(delta.name for delta in deltas if isinstance(delta, ToolCallStart))
    return thoughts, answer, names, "".join(delta.text for delta in deltas if isinstance(delta, ToolCallArguments))


WHOLE: list[tuple[str, Parts]] = [
    (THOUGHT + ANSWER, ("The capital of Norway?", "Oslo <|no mark|>.\n", "", "")),
    (ANSWER.removeprefix("<|start|>assistant"), ("", "Oslo <|no mark|>.\n", "", "")),
    (THOUGHT + CALL, ("The capital of Norway?", "", "weather", '{"city": "Oslo"}')),
    (' to=functions.weather<|channel|>commentary json<|message|>{"a": 1}', ("", "", "weather", '{"a": 1}')),
    (CALL.removesuffix('{"city": "Oslo"}'), ("", "", "weather", "{}")),
    ("<|channel|>commentary<|message|>I look.<|end|>" + CALL, ("", "I look.", "weather", '{"city": "Oslo"}')),
    ("<|channel|>commentary<|message|>I know.<|end|>" + ANSWER, ("", "I know.\n\nOslo <|no mark|>.\n", "", "")),
    ("<|channel|>analysis<|message|>cut in the mid", ("cut in the mid", "", "", "")),
    ("<|channel|>analysis<|message|>no end<|start|>assistant<|channel|>final<|message|>!", ("no end", "!", "", "")),
    ("<|channel|>ana", ("", "", "", "")),
    ("Oslo <b>", ("", "Oslo <b>", "", "")),
    (" t", ("", " t", "", "")),
    ("", ("", "", "", "")),
]


@pytest.mark.parametrize(("text", "expected"), WHOLE)
def test_the_messages_of_a_turn(text: str, expected: Parts) -> None:
    assert read([text]) == expected
    assert read(list(text)) == expected


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 200), max_size=6))
def test_it_does_not_matter_how_the_text_is_cut(case: tuple[str, Parts], places: list[int]) -> None:
    text, expected = case
    cuts = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    assert read([text[a:b] for a, b in pairwise(cuts)]) == expected


def test_a_call_that_nobody_offered_is_said() -> None:
    assert read([CALL], calls=False) == ("", '{"city": "Oslo"}', "", "")


def test_a_header_without_end_is_not_waited_for() -> None:
    thought, answer, *_ = read(["<|channel|>" + "x" * 1000, "y"])
    assert (thought, answer) == ("", "y")


async def test_a_turn_in_a_chat(open_house: OpenHouse) -> None:
    house = await open_house(Script(words=[THOUGHT, CALL], per_event=1, thoughts=CHANNELS))
    choice = (await (await house.chat(tools=[WEATHER])).json())["choices"][0]
    assert choice["message"]["reasoning_content"] == "The capital of Norway?"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert choice["finish_reason"] == "tool_calls"
