"""Text that poses as control tokens: chat templates are proof against it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat.example_templates import (
    BOS,
    CONTROLS,
    DEEPSEEK,
    GEMMA,
    LLAMA,
    MISTRAL,
    NOW,
    control_tokens,
    message,
    template_of,
)
from tests.properties import examples
from twd.chat.template import CHATML, ChatTemplate, render_tokens
from twd.engine.model import LoadedGguf
from twd.wire.job import ChatMessage, Prompt, ToolCall

FRAGMENTS = sorted(
    {*"<>|[]/_§x i", *(c for controls in CONTROLS.values() for c in controls)}
    | {
        "<|im_",
        "end|>",
        "|im_end|>",
        "im_",
        "_end",
        "<|",
        "|>",
        "\U0010f000",
        "\U0010f003",
        "/no_think",
        "</think>",
        "\n",
        "im_end",
    }
)
hostile_text = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=6).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[ChatMessage]:
    turns = [message("user", draw(hostile_text), name=draw(hostile_text))]
    for _ in range(draw(st.integers(0, 2))):
        turns.append(message("assistant", draw(hostile_text), name=draw(hostile_text)))
        turns.append(message("user", draw(hostile_text), name=draw(hostile_text)))
    return turns


def defused(text: str) -> str:
    """Text of the same shape that can form nothing."""
    return "".join(c if c.isspace() else "~" for c in text)


def of_the_same_shape(prompt: Prompt) -> Prompt:
    turns = [
        msgspec.structs.replace(m, content=defused(m.content), name=defused(m.name)) for m in prompt.messages or []
    ]
    return msgspec.structs.replace(prompt, messages=turns, prefill=defused(prompt.prefill))


@examples(150)
@given(turns=conversations(), prefill=hostile_text, source=st.sampled_from(list(CONTROLS)))
def test_hostile_text_makes_no_control_token(turns: list[ChatMessage], prefill: str, source: str) -> None:
    prompt = Prompt(messages=turns, prefill=prefill)
    assert control_tokens(source, prompt) == control_tokens(source, of_the_same_shape(prompt))


@examples(100)
@given(turns=conversations(), prefill=hostile_text, source=st.sampled_from([CHATML, LLAMA, GEMMA]))
def test_hostile_text_stays_the_text_it_is(turns: list[ChatMessage], prefill: str, source: str) -> None:
    harmless = ChatTemplate(source, BOS.get(source, ""), "</s>")
    asked = Prompt(messages=turns, prefill=prefill)
    said = template_of(source).render(asked, NOW).text
    for stand_in in ("\U0010f000", "\U0010f003"):
        said = said.replace(stand_in, "\ufffd")
    expected = harmless.render(asked, NOW).text
    assert said == expected.replace("\U0010f000", "\ufffd").replace("\U0010f003", "\ufffd")


@examples(100)
@given(name=hostile_text, key=hostile_text, value=hostile_text, result=hostile_text, description=hostile_text)
def test_hostile_tools_and_results_make_no_control_token(
    name: str, key: str, value: str, result: str, description: str
) -> None:
    def asked(make: Any) -> Prompt:
        call = ToolCall(
            id=make(key), name=make(name), arguments=msgspec.json.encode({make(key): [make(value)]}).decode()
        )
        tool = {"type": "function", "function": {"name": make(name), "parameters": {make(key): make(description)}}}
        turns = [
            message("user", "?"),
            message("assistant", tool_calls=[call]),
            message("tool", make(result), tool_call_id=make(key)),
        ]
        return Prompt(messages=turns, tools=[msgspec.Raw(msgspec.json.encode(tool))])

    for source in (LLAMA, CHATML, MISTRAL, DEEPSEEK):
        assert control_tokens(source, asked(str)) == control_tokens(source, asked(defused))


@pytest.mark.model
class TestWithTheRealModel:
    """SmolLM2's own template and vocabulary."""

    def test_a_benign_conversation_tokenizes_as_one_text(self, q4: LoadedGguf) -> None:
        template = ChatTemplate.of(q4.chat_template, q4.vocab)
        turns = [
            message("user", "What is 2 < 3 | 1?\n\tçà 日本"),
            message("assistant", "True."),
            message("user", "Why?"),
        ]
        text = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nWhat is 2 < 3 | 1?\n\tçà 日本<|im_end|>\n<|im_start|>assistant\nTrue.<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        )
        tokens = render_tokens(template, Prompt(messages=turns), q4.vocab.tokenize, NOW)
        assert tokens == q4.vocab.tokenize(text, parse_special=True, add_bos=True)

    @examples(100)
    @given(data=st.data())
    def test_hostile_text_makes_no_control_token(self, q4: LoadedGguf, data: st.DataObject) -> None:
        special = q4.vocab.special_tokens
        pieces = [p for text in special for p in (text, text[:1], text[1:], text[:-1], text[-1:], text[:3], text[3:])]
        hostile = st.lists(st.sampled_from(pieces) | st.text(max_size=3), max_size=6).map("".join)
        template = ChatTemplate.of(q4.chat_template, q4.vocab)
        prompt = Prompt(
            messages=[
                message("system", data.draw(hostile)),
                message("user", data.draw(hostile)),
                message("assistant", data.draw(hostile)),
                message("tool", data.draw(hostile)),
            ],
            prefill=data.draw(hostile),
        )
        tokens = render_tokens(template, prompt, q4.vocab.tokenize, NOW)
        start, end = special["<|im_start|>"], special["<|im_end|>"]
        assert [token for token in tokens if token in special.values()] == [start, end] * 4 + [start]

    def test_its_abilities(self, q4: LoadedGguf) -> None:
        able = ChatTemplate.of(q4.chat_template, q4.vocab).abilities
        assert able.system
        assert not any([able.tools, able.tool_calls, able.tool_results, able.developer])
