"""Calls in tags are held to the schemas of strict tools as they are read back; what cannot be kept is left free."""

import json
import random
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.chat.tool_calls.test_formats import CITY, strict
from tests.chat.tool_calls.test_rules import Marked, breaks, tokens_of
from tests.chat.tool_calls.test_stream import together
from tests.engine.words import Words
from twd.chat.tool_calls.formats import ToolFormat, function_schemas, showing_markers, strict_calls
from twd.chat.tool_calls.stream import ToolCallStream
from twd.structured_output.compiled import CompiledGrammar
from twd.structured_output.state import GrammarCache, GrammarState

RICH: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 20},
        "deep": {"$ref": "#/$defs/deep"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]$"},
        "odd": {"type": ["boolean", "null"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {
        "deep": {
            "type": "object",
            "properties": {
                "a": {"type": "array", "items": {"type": "string"}},
                "b": {"type": "string", "minLength": 2},
            },
            "required": ["a"],
            "additionalProperties": False,
        }
    },
}
TOOLS = [strict("weather", RICH), strict("clock", {"type": "object", "properties": {}, "additionalProperties": False})]
TOOLS.append(strict("note", {"type": "object", "properties": {"text": {"type": "string"}}}, strict=False))
OPENED = {
    ToolFormat.FUNCTION: "<tool_call>\n<function=",
    ToolFormat.KEYED: "",
    ToolFormat.HUNYUAN: "<tool_calls:opensource>\n",
    ToolFormat.MINIMAX: "",
    ToolFormat.ATEM: "",
    ToolFormat.DSML: "<｜DSML｜function_calls>\n",
    ToolFormat.KIMI_K3: "<|open|>tools<|sep|>",
}
"""What a model writes before the mark that begins a call."""
TAGGED = list(OPENED)
AS_TOKENS_FIRST = pytest.mark.parametrize("as_tokens", [True, pytest.param(False, marks=pytest.mark.thorough)])


def made(found: ToolFormat, words: Words, tools: list[msgspec.Raw] = TOOLS) -> CompiledGrammar:
    grammar = strict_calls(tools, found)
    assert grammar is not None
    return GrammarCache(words).compiled(grammar)


def function(name: str, **values: str) -> str:
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


def keyed(name: str, **values: str) -> str:
    written = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in values.items())
    return f"<tool_call>{name}\n{written}</tool_call>"


def hunyuan(name: str, **values: str) -> str:
    text = keyed(name, **values).replace(f"{name}\n", f"{name}<tool_sep>\n", 1)
    for tag in ("tool_call", "tool_sep", "arg_key", "arg_value"):
        text = text.replace(f"{tag}>", f"{tag}:opensource>")
    return f"<tool_calls:opensource>\n{text}\n</tool_calls:opensource>"


def invoked(name: str, prefix: str, around: str, **values: str) -> str:
    written = "".join(f'<{prefix}parameter name="{key}">{value}</{prefix}parameter>\n' for key, value in values.items())
    call = f'<{prefix}invoke name="{name}">\n{written}</{prefix}invoke>'
    return f"<{around}>\n{call}\n</{around}>"


def minimax(name: str, **values: str) -> str:
    return invoked(name, "", "minimax:tool_call", **values)


def atem(name: str, **values: str) -> str:
    return invoked(name, "atem:", "atem:function_calls", **values)


def is_text(key: str, value: str) -> bool:
    return key in ("city", "unit", "code", "text") or (key == "maybe" and value != "null")


def dsml(name: str, **values: str) -> str:
    text = invoked(name, "｜DSML｜", "｜DSML｜function_calls", **values)
    for key, value in values.items():
        text = text.replace(f'"{key}">', f'"{key}" string="{"true" if is_text(key, value) else "false"}">')
    return text


def k3(name: str, **values: str) -> str:
    kinds = {"days": "number", "deep": "object", "odd": "boolean", "maybe": "null"}
    written = "".join(
        f'<|open|>argument key="{key}" type="{"string" if is_text(key, value) else kinds[key]}"<|sep|>{value}'
        "<|close|>argument<|sep|>"
        for key, value in values.items()
    )
    call = f'<|open|>call tool="{name}" index="1"<|sep|>{written}<|close|>call<|sep|>'
    return f"<|open|>tools<|sep|>{call}<|close|>tools<|sep|>"


WRITTEN = dict(zip(TAGGED, (function, keyed, hunyuan, minimax, atem, dsml, k3), strict=True))
GOOD: list[dict[str, str]] = [
    {"city": "Oslo", "days": "3"},
    {"city": 'a < b </par & "c" é日😀\n\nd', "unit": "C", "days": "20"},
    {"city": "", "days": "1", "deep": '{"a": ["x < y", "</p"], "b": "\\u003c/" }', "maybe": "null", "odd": "true"},
    {"city": "null", "days": "1", "maybe": "so", "code": "AB1", "odd": "false"},
]
BAD: list[dict[str, str]] = [
    {"days": "3"},
    {"city": "Oslo"},
    {"days": "3", "city": "Oslo"},
    {"city": "Oslo", "days": "0"},
    {"city": "Oslo", "days": "three"},
    {"city": "Oslo", "unit": "K", "days": "3"},
    {"city": "Oslo", "days": "3", "deep": "{}"},
    {"city": "Oslo", "days": "3", "deep": '{"a": [1]}'},
    {"city": "Oslo", "days": "3", "deep": '{"a": [], "b": "x"}'},
    {"city": "Oslo", "days": "3", "code": "ab1"},
    {"city": "Oslo", "days": "3", "odd": '"x"'},
    {"city": "Oslo", "days": "3", "text": "none"},
]


@pytest.mark.parametrize("as_tokens", [True, False])
@pytest.mark.parametrize("found", TAGGED)
def test_a_strict_tool_is_held_to_its_schema(found: ToolFormat, as_tokens: bool) -> None:
    words = Marked(found) if as_tokens else Words()
    grammar, written = made(found, words), WRITTEN[found]
    good = [written("weather", **values) for values in GOOD] + [written("clock")]
    assert [text for text in good if breaks(grammar, words, f"I see.\n{text} And {text}")] == []
    bad = [written("weather", **values) for values in BAD] + [written("clock", city="x"), written("nobody")]
    assert [text for text in bad if not breaks(grammar, words, text)] == []


@pytest.mark.parametrize("found", [ToolFormat.FUNCTION, ToolFormat.MINIMAX])
def test_the_mark_that_ends_a_value_stands_in_no_text_of_it(found: ToolFormat) -> None:
    words = Words()
    grammar, written = made(found, words), WRITTEN[found]
    for inside, broken in (("</parameter>", True), ("</parameter", False), ("\\u003c/parameter>", False)):
        deep = f'{{"a": ["<</parame{inside}"]}}'
        assert breaks(grammar, words, written("weather", city="Oslo", days="3", deep=deep)) is broken


@AS_TOKENS_FIRST
@pytest.mark.parametrize("found", TAGGED)
def test_other_tools_are_free(found: ToolFormat, as_tokens: bool) -> None:
    words = Marked(found) if as_tokens else Words()
    grammar, written = made(found, words), WRITTEN[found]
    free = [written("note"), written("note", text="any <thing>"), written("note", text="5", city="x", days="no")]
    assert [text for text in free if breaks(grammar, words, text)] == []
    assert breaks(grammar, words, written("notes"))


@pytest.mark.parametrize("found", TAGGED)
def test_what_is_written_so_is_read_so(found: ToolFormat) -> None:
    """The texts of these tests are calls."""
    for values in GOOD:
        stream = ToolCallStream(function_schemas(TOOLS))
        (call,) = together(stream.feed(WRITTEN[found]("weather", **values)) + stream.finish())
        assert isinstance(call, tuple)
        read = json.loads(call[1])
        assert call[0] == "weather"
        assert list(read) == list(values)
        assert (read["city"], str(read["days"])) == (values["city"], values["days"])


def rest_of(end: bytes, text: bytes) -> bytes:
    """What is still missing of the end."""
    return next(end[length:] for length in range(len(end) - 1, -1, -1) if text.endswith(end[:length]))


def walked(grammar: CompiledGrammar, words: Words, begin: list[int], ends: list[str], rng: random.Random) -> list[int]:
    """Tokens that the grammar allows, by chance, but so that texts come to one of these ends, rather to the first."""
    walk, tokens, text = GrammarState(grammar), list(begin), b""
    names = {token: name for name, token in words.special_tokens.items()}
    pieces = [names[token].encode() if token in names else words.piece(token) for token in range(words.size)]
    while len(tokens) < 1500 and not (able := walk.allowed(tokens)).tolist().count(words.end):
        choices = able.tolist()
        for end in map(str.encode, ends):
            rest = rest_of(end, text)
            marks = [token for token in choices if rest.startswith(pieces[token])]
            if marks and rng.random() < (0.99 if len(rest) < len(end) else 0.3):
                choices = marks
                break
        token = rng.choice([token for token in choices if pieces[token].isalnum()] or choices)
        tokens.append(token)
        text += pieces[token]
    return tokens if len(tokens) < 1500 else []


TAILS = {
    ToolFormat.KEYED: "</arg_value>",
    ToolFormat.HUNYUAN: "</arg_value:opensource>",
    ToolFormat.DSML: "</｜DSML｜parameter>",
    ToolFormat.ATEM: "</atem:parameter>",
    ToolFormat.KIMI_K3: "<|close|>argument<|sep|>",
}


WALKS_MAX, ENOUGH = 8, 3


@AS_TOKENS_FIRST
@pytest.mark.parametrize("found", TAGGED)
def test_what_is_forced_is_read_back(found: ToolFormat, as_tokens: bool) -> None:
    words, rng = Marked(found) if as_tokens else Words(), random.Random(1)
    tools = [strict("weather", {**RICH, "required": ["city", "days", "deep", "maybe", "code"]})]
    grammar, asked = made(found, words, tools), strict_calls(tools, found)
    assert asked is not None
    begin = tokens_of(OPENED[found].removesuffix(asked.begins) + asked.begins, words)
    piece = showing_markers(words.piece, words.special_tokens, found.markers)
    schemas = function_schemas(tools)
    read: list[dict[str, Any]] = []
    for _ in range(WALKS_MAX):
        if len(read) >= ENOUGH:
            return
        tokens = walked(grammar, words, begin, [TAILS.get(found, "</parameter>"), '"', "]", "}", asked.ends], rng)
        if not tokens:
            continue
        text = b"".join(map(piece, tokens)).decode()
        stream = ToolCallStream(schemas)
        for call in together(stream.feed(text) + stream.finish()):
            assert isinstance(call, tuple), text
            read.append(json.loads(call[1]))
            jsonschema.validate(read[-1], schemas[call[0]])
    raise AssertionError(f"of {WALKS_MAX} texts only {len(read)} held a call")


NO_STRINGS = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "minLength": 3},
        {"type": "string", "pattern": "a<b"},
        {"enum": ["a", "<b>"]},
        {"enum": ["a", 5]},
        {"anyOf": [{"enum": ["a", "b"]}, {"type": "integer"}]},
        {"allOf": [{"type": "string"}]},
        {"type": "array", "items": {"enum": ["<a>"]}},
        {"type": "string", "not": {"const": "a"}},
        {"minimum": 3},
        {"$ref": "#/nowhere"},
        {"anyOf": [{"$ref": "#/properties/part"}, {"type": "string"}]},
        {"enum": []},
    ],
)
def test_what_cannot_be_kept_is_left_free(part: object) -> None:
    words = Words()
    tools = [strict("go", {"type": "object", "properties": {"part": part}, "required": ["part"]}), TOOLS[0]]
    grammar = made(ToolFormat.FUNCTION, words, tools)
    assert not breaks(grammar, words, function("go", part="ab <c>", other="5"))
    assert breaks(grammar, words, function("weather", city="x"))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"days": {"type": "integer"}}, "additionalProperties": True},
        {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["hours"]},
        {"type": "object", "properties": {"a key>": {"type": "integer"}}},
        {"anyOf": [NO_STRINGS]},
        {"type": "object", "properties": {"days": {"type": "integer"}}, "maxProperties": 1},
        {"$ref": "#/$defs/days", "$defs": {"days": NO_STRINGS}},
    ],
)
def test_arguments_that_cannot_be_kept_are_left_free(schema: object) -> None:
    words = Words()
    grammar = made(ToolFormat.FUNCTION, words, [strict("go", schema)])
    assert not breaks(grammar, words, function("go", days="no", other="<b>"))
    assert breaks(grammar, words, function("come"))


def test_schemas_that_are_together_too_much_are_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words()
    long = {"type": "object", "properties": {f"key{index}": {"type": "integer"} for index in range(40)}}
    monkeypatch.setattr("twd.grammar.rules.SYMBOLS_MAX", 12_000)
    kept = made(ToolFormat.MINIMAX, words, [strict("go1", long)])
    assert breaks(kept, words, minimax("go1", city="x"))
    grammar = made(ToolFormat.MINIMAX, words, [strict(f"go{index}", long) for index in range(9)])
    assert not breaks(grammar, words, minimax("go1", city="x"))
    assert breaks(grammar, words, minimax("go9"))


def test_a_function_may_take_json_too() -> None:
    words = Words()
    grammar = made(ToolFormat.FUNCTION, words, [strict("weather", CITY)])
    assert not breaks(grammar, words, '<function=weather>{"city": "<b>"}</function>')
    assert breaks(grammar, words, '<function=weather>{"town": "')
