"""Formats are told by the template; a forced call is described by a schema that only calls satisfy."""

import json

import jsonschema
import msgspec
import pytest

from twd.chat.tool_calls.deltas import ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.formats import (
    ToolFormat,
    detect_format,
    function_schemas,
    showing_markers,
    strict_calls,
    tool_grammar,
    usual_calls,
)
from twd.chat.tool_calls.stream import ToolCallStream
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

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


def test_a_reference_that_is_a_value_stays_as_it_is() -> None:
    says = {"const": {"$ref": "#/$defs/node"}}
    named = {"type": "object", "properties": {"const": {"$ref": "#/$defs/kept"}, "says": says}, "required": ["const"]}
    grammar = tool_grammar([tool("quote", {**named, "$defs": {"kept": says}})], "required", False, ToolFormat.HERMES)
    valid = jsonschema.Draft202012Validator(json.loads(grammar.text)).is_valid
    arguments = {"const": {"$ref": "#/$defs/node"}, "says": {"$ref": "#/$defs/node"}}
    assert valid({"name": "quote", "arguments": arguments})
    assert not valid({"name": "quote", "arguments": {**arguments, "const": {"$ref": "#/elsewhere"}}})


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ '<tool_call>\\n' }}", ToolFormat.HERMES),
        ("<tool_call><function=x>", ToolFormat.FUNCTION),
        ("<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key>", ToolFormat.KEYED),
        ("{{- '<|tool_call>call:' + function['name'] + '{' -}}", ToolFormat.LOOSE),
        ("{{ '<|python_tag|>' }}", ToolFormat.LLAMA),
        ("""'{"name": "' + name + '", "parameters": '""", ToolFormat.LLAMA),
        ("[TOOL_CALLS]", ToolFormat.MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", ToolFormat.NAMED),
        ("<|tool_call|>", ToolFormat.TAGGED),
        ("'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>'", ToolFormat.DEEPSEEK),
        ("{{ '<' + '｜DSML｜' + 'function_calls>' }}", ToolFormat.DSML),
        ("<|tool_call_begin|>{{ formatted_id }}<|tool_call_argument_begin|>", ToolFormat.KIMI),
        ("{%- set toolcall_begin_token = '<minimax:tool_call>' -%}", ToolFormat.MINIMAX),
        ('<tool_calls>[{"name": <function-name>, "arguments": <args-dict>}]</tool_calls>', ToolFormat.TOGETHER),
        ("'<|START_ACTION|>[' + '\"tool_name\": ' + '\"parameters\": '", ToolFormat.COHERE),
        ("{%- set ns_token = ']<]minimax[>[' -%}{%- set begin = ns_token ~ '<tool_call>' -%}", ToolFormat.MINIMAX_M3),
        ("{{- '<|open|>' + tag -}}", ToolFormat.KIMI_K3),
        ("<|tool_call:begin|><tool-call-id><|tool_call:name|>", ToolFormat.SOLAR),
        ("'<atem:function_calls>\\n<atem:invoke name=' '\"parameters\": '", ToolFormat.ATEM),
        ("'<tool_calls{}>'.format(HYTK) '<tool_sep{}>'.format(HYTK)", ToolFormat.HUNYUAN),
        ("<AVAILABLE_TOOLS>[ <TOOLCALL>[", ToolFormat.NEMOTRON),
        ("{%- set tool_calls_token = '<|tools_prefix|>' -%}", ToolFormat.APERTUS),
        ('message_sep="<|message_sep|>", function_call="<|function_call|>"', ToolFormat.GIGACHAT),
        ('message_sep="<|message_sep|>"', ToolFormat.GIGACHAT_MESSAGE),
        ('"List of tools: <|tool_list_start|>["', ToolFormat.PYTHON),
        ('"List of tools: ["', ToolFormat.PYTHON),
        ("""'<function name="' ~ tool_call.name ~ '">'""", ToolFormat.CPM),
        ("<seed:tool_call><function=example_function_name>", ToolFormat.FUNCTION),
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
    call = {found.name_key: "weather", found.arguments_key: {"city": "x"}}
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
        lambda token: b"x" if token == 1 else b"", {"[TOOL_CALLS]": 7, "<s>": 8}, ToolFormat.MISTRAL.markers
    )
    assert [piece(token) for token in (1, 7, 8)] == [b"x", b"[TOOL_CALLS]", b""]


def fits(grammar: Grammar | None, call: object) -> bool:
    assert grammar is not None
    return bool(jsonschema.Draft202012Validator(json.loads(grammar.text)).is_valid(call))


OSLO = {"name": "weather", "arguments": {"city": "Oslo"}}


@pytest.mark.parametrize(
    ("found", "marks", "call"),
    [
        (ToolFormat.HERMES, ("<tool_call>", "</tool_call>"), OSLO),
        (ToolFormat.TAGGED, ("<|tool_call|>", "<|/tool_call|>"), [OSLO, OSLO]),
        (ToolFormat.MISTRAL, ("[TOOL_CALLS]", ""), [OSLO]),
        (ToolFormat.NEMOTRON, ("<TOOLCALL>", "</TOOLCALL>"), [OSLO]),
        (ToolFormat.GIGACHAT, ("<|function_call|>", ""), OSLO),
        (ToolFormat.APERTUS, ("<|tools_prefix|>", "<|tools_suffix|>"), [{"weather": {"city": "Oslo"}}, {"clock": {}}]),
        (
            ToolFormat.COHERE,
            ("<|START_ACTION|>", "<|END_ACTION|>"),
            [
                {"tool_call_id": "0", "tool_name": "weather", "parameters": {"city": "Oslo"}},
                {"tool_name": "clock", "parameters": {}},
            ],
        ),
        (ToolFormat.LLAMA, ("", ""), {"name": "weather", "parameters": {"city": "Oslo"}}),
        (ToolFormat.BARE, ("", ""), OSLO),
    ],
)
def test_what_a_call_usually_looks_like(found: ToolFormat, marks: tuple[str, str], call: object) -> None:
    grammar = usual_calls(TOOLS, found)
    assert grammar is not None
    assert (grammar.begins, grammar.ends) == marks
    assert fits(grammar, call)
    assert not fits(grammar, {"name": "weather", "arguments": {"town": "Oslo"}})


def test_calls_in_tags_of_their_own_are_no_json() -> None:
    assert usual_calls(TOOLS, ToolFormat.FUNCTION) is None


def strict(name: str, parameters: object, *, strict: bool | None = True) -> msgspec.Raw:
    function = {"name": name, "parameters": parameters, "strict": strict}
    return msgspec.Raw(msgspec.json.encode({"type": "function", "function": function}))


def test_a_strict_tool_is_held_to_its_schema_and_the_others_to_their_names() -> None:
    grammar = strict_calls([strict("weather", CITY), strict("list", LINKED, strict=False)], ToolFormat.HERMES)
    assert grammar is not None
    assert (grammar.begins, grammar.ends) == ("<tool_call>", "</tool_call>")
    assert fits(grammar, OSLO)
    assert fits(grammar, {"name": "list", "arguments": {"any": ["thing"]}})
    assert not fits(grammar, {"name": "weather", "arguments": {}})
    assert not fits(grammar, {"name": "clock", "arguments": {}})


@pytest.mark.parametrize("found", [ToolFormat.LLAMA, ToolFormat.BARE, ToolFormat.GIGACHAT_MESSAGE])
def test_without_a_sure_mark_nothing_is_enforced(found: ToolFormat) -> None:
    assert strict_calls([strict("weather", CITY)], found) is None


def test_nothing_is_enforced_where_no_tool_is_strict() -> None:
    assert strict_calls([strict("weather", CITY, strict=None), *TOOLS], ToolFormat.HERMES) is None
    assert strict_calls([], ToolFormat.HERMES) is None
