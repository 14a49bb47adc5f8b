"""Calls of Gemma are held to the schemas of strict tools, and are read back as they are forced."""

import json
import random
from typing import Any

import jsonschema
import pytest

from tests.chat.tool_calls.test_formats import LINKED, strict
from tests.chat.tool_calls.test_rules import Marked, breaks, tokens_of
from tests.chat.tool_calls.test_stream import together
from tests.chat.tool_calls.test_tagged_rules import RICH, TOOLS, made, walked
from tests.engine.words import Words
from twd.chat.tool_calls.formats import ToolFormat, function_schemas, showing_markers
from twd.chat.tool_calls.stream import ToolCallStream

QUOTE = '<|"|>'
MORE: dict[str, Any] = {
    **RICH,
    "properties": {
        **RICH["properties"],
        "any": {},
        "list": {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
    },
    "required": ["city", "days", "any", "list", "deep", "maybe"],
    "$defs": {
        "deep": {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "string"}}, "b": {"type": "object"}},
            "required": ["a", "b"],
        }
    },
}
DEEP = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}, "required": ["a"]}
OFFERED = [strict("weather", {**RICH, "$defs": {"deep": DEEP}}), *TOOLS[1:]]


def call(name: str, arguments: str) -> str:
    return f"<|tool_call>call:{name}{{{arguments.replace('~', QUOTE)}}}<tool_call|>"


@pytest.mark.parametrize("as_tokens", [True, False])
def test_a_strict_tool_is_held_to_its_schema(as_tokens: bool) -> None:
    words = Marked(ToolFormat.LOOSE) if as_tokens else Words()
    grammar = made(ToolFormat.LOOSE, words, OFFERED)
    good = [
        call("weather", "city:~Oslo~,days:3"),
        call("weather", 'city:~a, "b" } < é~,code:~AB1~,days:20,maybe:null,odd:true,unit:~C~'),
        call("weather", "city:~~,days:1,deep:{a:[~x~,~y~]},maybe:~so~"),
        call("clock", ""),
        call("note", "any:[{thing:~~},5],x:true"),
    ]
    assert [text for text in good if breaks(grammar, words, f"I see. {text}{text} So")] == []
    bad = [
        call("weather", "days:3"),
        call("weather", "city:~Oslo~"),
        call("weather", "city:5,days:3"),
        call("weather", "city:~Oslo~,days:~3~"),
        call("weather", "city:~Oslo~,days:21"),
        call("weather", "city:~Oslo~,days:3,deep:{}"),
        call("weather", "city:~Oslo~,days:3,deep:{a:[1]}"),
        call("weather", "city:~Oslo~,days:3,unit:~K~"),
        call("weather", "city:~Oslo~,days:3,zoo:1"),
        call("clock", "x:1"),
        call("nobody", ""),
        "<|tool_call>weather",
    ]
    assert [text for text in bad if not breaks(grammar, words, text)] == []


@pytest.mark.parametrize("as_tokens", [True, False])
def test_what_is_forced_is_read_back(as_tokens: bool) -> None:
    words, rng = Marked(ToolFormat.LOOSE) if as_tokens else Words(), random.Random(2)
    tools = [strict("weather", MORE)]
    grammar, schemas = made(ToolFormat.LOOSE, words, tools), function_schemas(tools)
    piece = showing_markers(words.piece, words.special_tokens, ToolFormat.LOOSE.markers)
    read: list[dict[str, Any]] = []
    for _ in range(20):
        tokens = walked(grammar, words, tokens_of("<|tool_call>", words), [QUOTE, "]", "}"], rng)
        if not tokens:
            continue
        text = b"".join(map(piece, tokens)).decode()
        stream = ToolCallStream(schemas)
        (found,) = together(stream.feed(text) + stream.finish())
        assert isinstance(found, tuple), text
        read.append(json.loads(found[1]))
        jsonschema.validate(read[-1], schemas[found[0]])
    assert len(read) > 10


@pytest.mark.parametrize(
    "schema",
    [
        LINKED,
        {"type": "object"},
        {"type": "object", "properties": {"root": {"oneOf": [{"type": "string"}, {"type": "null"}]}}},
        {"type": "object", "properties": {"root": {"type": "string", "minLength": 2}}},
        {"type": "object", "properties": {"root": {"enum": ["<"]}}},
        {"type": "object", "properties": {"root": {"enum": [[1]]}}},
        {
            "type": "object",
            "properties": {"root": {"type": "array", "minItems": 2, "maxItems": 1}},
            "required": ["root"],
        },
        {"type": "object", "properties": {"root": {"type": "string"}}, "additionalProperties": True},
        {"type": "object", "properties": {"root:": {"type": "string"}}},
    ],
)
def test_what_cannot_be_kept_is_left_free(schema: object) -> None:
    words = Words()
    grammar = made(ToolFormat.LOOSE, words, [strict("go", schema), OFFERED[0]])
    assert not breaks(grammar, words, call("go", "root:5,other:~<b>~"))
    assert breaks(grammar, words, call("weather", "city:5"))
