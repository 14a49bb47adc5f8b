"""Formats are told by the template; a forced call is described by a schema that only calls satisfy."""

import json

import jsonschema
import msgspec
import pytest

from twd.engine.tool_calls import ToolCallArguments, ToolCallStart, ToolCallStream
from twd.engine.tool_formats import ToolFormat, detect_format, function_schemas, showing_markers, tool_grammar
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import GrammarKind

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
LINKED = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
    },
}


def tool(name: str, parameters: object = None) -> msgspec.Raw:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return msgspec.Raw(msgspec.json.encode({"type": "function", "function": function}))


TOOLS = [tool("weather", CITY), tool("list", LINKED), tool("clock")]


def accepts(
    answer: object, choice: str = "required", parallel: bool = False, found: ToolFormat = ToolFormat.HERMES
) -> bool:
    grammar = tool_grammar(TOOLS, choice, parallel, found)
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    return bool(jsonschema.Draft202012Validator(json.loads(grammar.text)).is_valid(answer))


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ '<tool_call>\\n' }}", ToolFormat.HERMES),
        ("<tool_call><function=x>", ToolFormat.FUNCTION),
        ("{{ '<|python_tag|>' }}", ToolFormat.LLAMA),
        ("""'{"name": "' + name + '", "parameters": '""", ToolFormat.LLAMA),
        ("[TOOL_CALLS]", ToolFormat.MISTRAL),
        ("<|tool_call|>", ToolFormat.TAGGED),
        ("{{ messages }}", ToolFormat.BARE),
    ],
)
def test_the_template_tells_the_format(template: str, found: ToolFormat) -> None:
    assert detect_format(template) is found


def test_any_tool_may_be_called_where_a_call_is_required() -> None:
    assert accepts({"name": "weather", "arguments": {"city": "x"}})
    assert accepts({"name": "clock", "arguments": {}})
    assert not accepts({"name": "weather", "arguments": {}})
    assert not accepts({"name": "clock", "arguments": {"city": "x"}}, "weather")
    assert not accepts({"name": "other", "arguments": {}})
    assert not accepts([])


def test_only_the_named_tool_may_be_called() -> None:
    assert accepts({"name": "clock", "arguments": {}}, "clock")
    assert not accepts({"name": "weather", "arguments": {"city": "x"}}, "clock")


def test_several_calls_are_a_list() -> None:
    call = {"name": "weather", "arguments": {"city": "x"}}
    assert accepts([call, call], parallel=True)
    assert not accepts(call, parallel=True)
    assert not accepts([], parallel=True)


def test_keys_are_the_formats_own() -> None:
    assert accepts({"name": "clock", "parameters": {}}, found=ToolFormat.LLAMA)
    assert not accepts({"name": "clock", "arguments": {}}, found=ToolFormat.LLAMA)


@pytest.mark.parametrize("parallel", [False, True])
def test_references_within_a_tools_schema_still_hold(parallel: bool) -> None:
    good = {"name": "list", "arguments": {"root": {"next": {"next": {}}}}}
    bad = {"name": "list", "arguments": {"root": {"next": {"other": 1}}}}
    assert accepts([good] if parallel else good, parallel=parallel)
    assert not accepts([bad] if parallel else bad, parallel=parallel)


@pytest.mark.parametrize("found", ToolFormat)
@pytest.mark.parametrize("parallel", [False, True])
def test_the_stream_reads_what_the_grammar_forces(found: ToolFormat, parallel: bool) -> None:
    call = {"name": "weather", found.arguments_key: {"city": "x"}}
    assert accepts([call] if parallel else call, parallel=parallel, found=found)
    stream = ToolCallStream(function_schemas(TOOLS))
    deltas = stream.feed(json.dumps([call] if parallel else call)) + stream.finish()
    assert deltas == [ToolCallStart(0, "weather"), ToolCallArguments(0, '{"city": "x"}')]


@pytest.mark.parametrize(("tools", "choice"), [([], "required"), (TOOLS, "nobody"), ([msgspec.Raw(b"5")], "required")])
def test_what_cannot_be_called_is_refused(tools: list[msgspec.Raw], choice: str) -> None:
    with pytest.raises(TwdError) as error:
        tool_grammar(tools, choice, False, ToolFormat.HERMES)
    assert error.value.code is FailureCode.BAD_REQUEST


def test_markers_that_are_control_tokens_can_be_seen() -> None:
    piece = showing_markers(
        lambda token: b"x" if token == 1 else b"", {"[TOOL_CALLS]": 7, "<s>": 8}, ToolFormat.MISTRAL
    )
    assert [piece(token) for token in (1, 7, 8)] == [b"x", b"[TOOL_CALLS]", b""]
