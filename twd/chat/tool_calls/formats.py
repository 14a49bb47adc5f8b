"""How models write tool calls: which format a template teaches, and the grammar that forces a valid call."""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

MAX_PARALLEL_CALLS = 16
_REFERENCES: Final = ("$ref", "$dynamicRef")
_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions")
_VALUES: Final = ("const", "enum", "default", "examples")
"""Keywords of a schema beneath which stand schemas by names, and those beneath which stand no schemas."""


class ToolFormat(enum.StrEnum):
    """A way of writing calls."""

    HERMES = "hermes"
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`"""
    FUNCTION = "function"
    """`<function=NAME>{...}</function>`, or `<parameter=KEY>VALUE</parameter>` lines inside it"""
    CPM = "cpm"
    """`<function name="NAME"><param name="KEY">VALUE</param></function>`, as MiniCPM writes"""
    KEYED = "keyed"
    """`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`, as GLM writes"""
    HUNYUAN = "hunyuan"
    """The same with `<tool_sep>` behind the name, and `:opensource` in every tag"""
    LOOSE = "loose"
    """`<|tool_call>call:NAME{key:<|"|>text<|"|>}<tool_call|>`, as Gemma writes"""
    LLAMA = "llama"
    """`{"name": ..., "parameters": {...}}`, with or without `<|python_tag|>` before it"""
    MISTRAL = "mistral"
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`"""
    NAMED = "named"
    """`[TOOL_CALLS]NAME[ARGS]{...}`, as Mistral writes now, or with `[CALL_ID]ID` behind the name"""
    COHERE = "cohere"
    """`<|START_ACTION|>[{"tool_call_id": ..., "tool_name": ..., "parameters": {...}}]<|END_ACTION|>`"""
    PYTHON = "python"
    """`<|tool_call_start|>[NAME(KEY='text', OTHER=3)]<|tool_call_end|>`, as LFM2 writes"""
    TAGGED = "tagged"
    """`<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>`"""
    TOGETHER = "together"
    """`<tool_calls>[{"name": ..., "arguments": {...}}]</tool_calls>`, or one call a line"""
    NEMOTRON = "nemotron"
    """`<TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>`"""
    APERTUS = "apertus"
    """`<|tools_prefix|>[{NAME: {...}}]<|tools_suffix|>`"""
    GIGACHAT = "gigachat"
    """`<|function_call|>{"name": ..., "arguments": {...}}`"""
    GIGACHAT_MESSAGE = "gigachat_message"
    """The same as a message of its own, as GigaChat 3 writes: `<|message_sep|>function call<|role_sep|>{...}`"""
    DEEPSEEK = "deepseek"
    """`<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`; or a type, and NAME behind"""
    KIMI = "kimi"
    """`<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>`"""
    KIMI_K3 = "kimi_k3"
    """`<|open|>call tool="NAME"<|sep|><|open|>argument key="KEY" type="string"<|sep|>VALUE<|close|>argument<|sep|>`"""
    SOLAR = "solar"
    """`<|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{...}<|tool_call:end|>`"""
    MINIMAX_M3 = "minimax_m3"
    """`<invoke name="NAME"><KEY>VALUE</KEY></invoke>`, and more elements for what is nested; a mark before each tag"""
    ATEM = "atem"
    """As MiniMax writes, with `atem:` in every tag: Muse Glimmer"""
    MINIMAX = "minimax"
    """`<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>` within `<minimax:tool_call>`"""
    DSML = "dsml"
    """The same with `<｜DSML｜invoke` and so on, as DeepSeek writes since V3.2; `string="true"` tells texts"""
    BARE = "bare"
    """Nothing but `{"name": ..., "arguments": {...}}`, or a list of them"""

    @property
    def arguments_key(self) -> str:
        """The key under which a call's arguments stand."""
        return "parameters" if self in (ToolFormat.LLAMA, ToolFormat.COHERE) else "arguments"

    @property
    def name_key(self) -> str:
        """The key under which a tool's name stands."""
        return "tool_name" if self is ToolFormat.COHERE else "name"

    @property
    def markers(self) -> tuple[str, ...]:
        """Strings around calls that may be control tokens, so that they must be made visible to be found."""
        return _MARKERS[self]


_MARKERS: dict[ToolFormat, tuple[str, ...]] = {
    ToolFormat.HERMES: ("<tool_call>", "</tool_call>"),
    ToolFormat.FUNCTION: ("<tool_call>", "</tool_call>", "<seed:tool_call>", "</seed:tool_call>"),
    ToolFormat.CPM: ("<function", "</function>", "<param", "</param>"),
    ToolFormat.KEYED: (
        *("<tool_call>", "</tool_call>"),
        *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    ToolFormat.HUNYUAN: tuple(
        f"<{slash}{name}:opensource>"
        for name in ("tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value")
        for slash in ("", "/")
    ),
    ToolFormat.LOOSE: ("<|tool_call>", "<tool_call|>", '<|"|>'),
    ToolFormat.LLAMA: ("<|python_tag|>",),
    ToolFormat.MISTRAL: ("[TOOL_CALLS]",),
    ToolFormat.NAMED: ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    ToolFormat.COHERE: ("<|START_ACTION|>", "<|END_ACTION|>"),
    ToolFormat.PYTHON: ("<|tool_call_start|>", "<|tool_call_end|>"),
    ToolFormat.TAGGED: ("<|tool_call|>", "<|/tool_call|>"),
    ToolFormat.TOGETHER: ("<tool_calls>", "</tool_calls>"),
    ToolFormat.NEMOTRON: ("<TOOLCALL>", "</TOOLCALL>"),
    ToolFormat.APERTUS: ("<|tools_prefix|>", "<|tools_suffix|>"),
    ToolFormat.GIGACHAT: ("<|function_call|>",),
    ToolFormat.GIGACHAT_MESSAGE: ("<|message_sep|>", "<|message_sep|>\n\n", "<|role_sep|>", "<|role_sep|>\n"),
    ToolFormat.DEEPSEEK: (
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        *("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    ),
    ToolFormat.KIMI: (
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        *("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    ),
    ToolFormat.KIMI_K3: ("<|open|>", "<|close|>", "<|sep|>"),
    ToolFormat.SOLAR: (
        *("<|tool_calls|>", "<|calls|>"),
        *("<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>"),
    ),
    ToolFormat.MINIMAX_M3: ("]<]minimax[>[", "<tool_call>", "</tool_call>"),
    ToolFormat.ATEM: ("<atem:function_calls>", "</atem:function_calls>"),
    ToolFormat.MINIMAX: ("<minimax:tool_call>", "</minimax:tool_call>"),
    ToolFormat.DSML: ("｜DSML｜",),
    ToolFormat.BARE: (),
}
_MARKS: dict[ToolFormat, tuple[str, str]] = {
    ToolFormat.HERMES: ("<tool_call>", "</tool_call>"),
    ToolFormat.TAGGED: ("<|tool_call|>", "<|/tool_call|>"),
    ToolFormat.TOGETHER: ("<tool_calls>", "</tool_calls>"),
    ToolFormat.COHERE: ("<|START_ACTION|>", "<|END_ACTION|>"),
    ToolFormat.NEMOTRON: ("<TOOLCALL>", "</TOOLCALL>"),
    ToolFormat.APERTUS: ("<|tools_prefix|>", "<|tools_suffix|>"),
    ToolFormat.GIGACHAT: ("<|function_call|>", ""),
    ToolFormat.MISTRAL: ("[TOOL_CALLS]", ""),
    ToolFormat.NAMED: ("[TOOL_CALLS]", ""),
    ToolFormat.KIMI: ("<|tool_call_begin|>", "<|tool_call_end|>"),
    ToolFormat.DEEPSEEK: ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    ToolFormat.SOLAR: ("<|tool_call:begin|>", "<|tool_call:end|>"),
    ToolFormat.FUNCTION: ("<function=", "</function>"),
    ToolFormat.KEYED: ("<tool_call>", "</tool_call>"),
    ToolFormat.HUNYUAN: ("<tool_call:opensource>", "</tool_call:opensource>"),
    ToolFormat.MINIMAX: ("<minimax:tool_call>", "</minimax:tool_call>"),
    ToolFormat.ATEM: ("<atem:function_calls>", "</atem:function_calls>"),
    ToolFormat.DSML: ('<｜DSML｜invoke name="', "</｜DSML｜invoke>"),
    ToolFormat.LOOSE: ("<|tool_call>", "<tool_call|>"),
    ToolFormat.KIMI_K3: ('<|open|>call tool="', "<|close|>call<|sep|>"),
}
"""What stands before calls, and what behind them, where it is sure what stands between."""
_HEADED = frozenset({ToolFormat.NAMED, ToolFormat.KIMI, ToolFormat.DEEPSEEK, ToolFormat.SOLAR})
"""Between their marks the name stands before the JSON."""
_UNLIKE_JSON = frozenset(
    {
        *(ToolFormat.FUNCTION, ToolFormat.CPM, ToolFormat.KEYED, ToolFormat.HUNYUAN, ToolFormat.LOOSE),
        *(ToolFormat.PYTHON, ToolFormat.KIMI_K3, ToolFormat.MINIMAX_M3, ToolFormat.ATEM, ToolFormat.MINIMAX),
        ToolFormat.DSML,
    }
)
"""Their calls are written otherwise."""
_LISTED = frozenset(
    {
        *(ToolFormat.TAGGED, ToolFormat.TOGETHER, ToolFormat.MISTRAL),
        *(ToolFormat.COHERE, ToolFormat.NEMOTRON, ToolFormat.APERTUS),
    }
)
"""Their calls stand in a list."""
_CALL_NUMBER: Final = {"type": "string", "pattern": "^[0-9]{1,4}$"}
_CALL_ID: Final = {"type": "string", "pattern": "^[0-9A-Za-z]{9}$"}
_NAME = re.compile(r"[\w.\-]{1,128}")
"""What a name must be to be found without quotes."""
_SIGNS = (
    ("<|START_ACTION|>", ToolFormat.COHERE),
    ("]<]minimax[>[", ToolFormat.MINIMAX_M3),
    ("<|open|>", ToolFormat.KIMI_K3),
    ("<|tool_call:begin|>", ToolFormat.SOLAR),
    ("<atem:function_calls>", ToolFormat.ATEM),
    ("<tool_sep{}>", ToolFormat.HUNYUAN),
    ("<tool_sep:opensource>", ToolFormat.HUNYUAN),
    ("<TOOLCALL>", ToolFormat.NEMOTRON),
    ("<|tools_prefix|>", ToolFormat.APERTUS),
    ("<|function_call|>", ToolFormat.GIGACHAT),
    ("<|message_sep|>", ToolFormat.GIGACHAT_MESSAGE),
    ("<|tool_call_start|>", ToolFormat.PYTHON),
    ("<|tool_list_start|>", ToolFormat.PYTHON),
    ("List of tools: [", ToolFormat.PYTHON),
    ('<function name="', ToolFormat.CPM),
    ("<｜tool▁call▁begin｜>", ToolFormat.DEEPSEEK),
    ("｜DSML｜", ToolFormat.DSML),
    ("<|tool_call_argument_begin|>", ToolFormat.KIMI),
    ("<minimax:tool_call>", ToolFormat.MINIMAX),
    ("[ARGS]", ToolFormat.NAMED),
    ("[TOOL_CALLS]", ToolFormat.MISTRAL),
    ("<|python_tag|>", ToolFormat.LLAMA),
    ("<|tool_call|>", ToolFormat.TAGGED),
    ("<|tool_call>call:", ToolFormat.LOOSE),
    ("<arg_key>", ToolFormat.KEYED),
    ("<function=", ToolFormat.FUNCTION),
    ("<tool_calls>", ToolFormat.TOGETHER),
    ("<tool_call>", ToolFormat.HERMES),
    ('"parameters":', ToolFormat.LLAMA),
)


class ToolSchemas(msgspec.Struct, frozen=True):
    """Tools by name, and the list of the schemas of their arguments."""

    format: ToolFormat
    names: list[str]
    schemas: msgspec.Raw


def detect_format(template: str) -> ToolFormat:
    """The format that a chat template teaches, by the signs that it writes."""
    return next((found for sign, found in _SIGNS if sign in template), ToolFormat.BARE)


def showing_markers(
    piece: Callable[[int], bytes], special_tokens: Mapping[str, int], markers: Sequence[str]
) -> Callable[[int], bytes]:
    """A token's bytes as `piece` gives them, but with these markers visible though they may be control tokens."""
    shown = {special_tokens[marker]: marker.encode() for marker in markers if marker in special_tokens}
    return (lambda token: shown.get(token) or piece(token)) if shown else piece


def tool_grammar(tools: Sequence[msgspec.Raw], choice: str, parallel: bool, found: ToolFormat) -> Grammar:
    """What makes the model call: any tool for the choice `required`, else the tool that `choice` names.

    The answer is bare JSON with the keys of the model's own format: an object, or where calls may be `parallel` a
    list of them. `ToolCallStream` reads both in every format.
    """
    offered = [_function(tool) for tool in tools]
    chosen = offered if choice == "required" else [tool for tool in offered if tool["name"] == choice]
    if not chosen:
        message = "tool_choice wants a call, but " + ("there are no tools" if not offered else f"no tool is '{choice}'")
        raise TwdError(FailureCode.BAD_REQUEST, message + ".", "tool_choice")
    return _calls(chosen, parallel, found)


def usual_calls(tools: Sequence[msgspec.Raw], found: ToolFormat) -> Grammar | None:
    """What calls look like when the model makes some, without being made to; None where that cannot be said."""
    if found in _UNLIKE_JSON:
        return None
    return _marked_calls([_function(tool) for tool in tools], found)


def strict_calls(tools: Sequence[msgspec.Raw], found: ToolFormat) -> Grammar | None:
    """What holds a call of a tool that is `strict` to its schema, where the model makes one; None where no tool is, or
    where nothing tells a call from text before it is whole."""
    if found not in _MARKS:
        return None
    offered = [_function(tool) for tool in tools]
    if not any(tool.get("strict") for tool in offered):
        return None
    held = [tool if tool.get("strict") else {**tool, "parameters": {"type": "object"}} for tool in offered]
    return _marked_calls(held, found)


def _marked_calls(tools: Sequence[dict[str, Any]], found: ToolFormat) -> Grammar | None:
    begins, ends = _MARKS.get(found, ("", ""))
    calls = (
        _headed_calls(tools, found)
        if found in _HEADED | _UNLIKE_JSON
        else _calls(tools, found in _LISTED, found, marked=True)
    )
    return None if calls is None else replace(calls, begins=begins, ends=ends)


def _headed_calls(tools: Sequence[dict[str, Any]], found: ToolFormat) -> Grammar | None:
    names = [tool["name"] for tool in tools]
    if not all(map(_NAME.fullmatch, names)):
        return None
    schemas = [_moved(f"#/{index}", tool) for index, tool in enumerate(tools)]
    text = msgspec.json.encode(ToolSchemas(found, names, msgspec.Raw(msgspec.json.encode(schemas)))).decode()
    return Grammar(kind=GrammarKind.CALLS, text=text, field="tools")


def _calls(tools: Sequence[dict[str, Any]], listed: bool, found: ToolFormat, *, marked: bool = False) -> Grammar:
    """Calls as JSON; between its marks a format may write more, or other, than it needs to be read without them."""
    definitions: dict[str, Any] = {}
    calls = [_call_schema(tool, found, marked, definitions) for tool in tools]
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if listed:
        several = {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_PARALLEL_CALLS}
        schema = {"anyOf": [several, schema]} if marked and found is ToolFormat.TOGETHER else several
    if definitions:
        schema["$defs"] = definitions
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=msgspec.json.encode(schema).decode(), field="tools")


def function_schemas(tools: Sequence[msgspec.Raw]) -> dict[str, Any]:
    """The schema of each tool's arguments, by the tool's name."""
    return {tool["name"]: tool.get("parameters") or {} for tool in map(_function, tools)}


def _function(tool: msgspec.Raw) -> dict[str, Any]:
    decoded = msgspec.json.decode(tool)
    function = decoded.get("function", decoded) if isinstance(decoded, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TwdError(FailureCode.BAD_REQUEST, "Every tool needs a function with a name.", "tools")
    return function


def _call_schema(tool: dict[str, Any], found: ToolFormat, marked: bool, definitions: dict[str, Any]) -> dict[str, Any]:
    name, arguments = tool["name"], _arguments_schema(tool, definitions)
    keys: dict[str, Any] = {found.name_key: {"const": name}, found.arguments_key: arguments}
    if marked and found is ToolFormat.APERTUS:
        keys = {name: arguments}
    before = {"tool_call_id": _CALL_NUMBER} if marked and found is ToolFormat.COHERE else {}
    behind = {"id": _CALL_ID} if marked and found is ToolFormat.MISTRAL else {}
    return {
        "type": "object",
        "properties": {**before, **keys, **behind},
        "required": list(keys),
        "additionalProperties": False,
    }


def _arguments_schema(tool: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """The tool's schema; one with references moves to the root, so that they can be made to point there."""
    key = f"tool{len(definitions)}"
    moved = _moved(f"#/$defs/{key}", tool)
    if moved == _parameters(tool):
        return moved
    definitions[key] = moved
    return {"$ref": f"#/$defs/{key}"}


def _parameters(tool: dict[str, Any]) -> Any:
    return tool.get("parameters") or {"type": "object", "properties": {}}


def _moved(place: str, tool: dict[str, Any]) -> Any:
    """The schema of the tool's arguments as it must be at another place of a document."""
    try:
        return _with_references_under(place, _parameters(tool))
    except RecursionError:
        message = f"the parameters of tool '{tool['name']}' are nested too deeply"
        raise TwdError(FailureCode.BAD_REQUEST, message, "tools") from None


def _with_references_under(root: str, schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_references_under(root, item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _under(root, key, value) for key, value in schema.items()}


def _under(root: str, keyword: str, value: Any) -> Any:
    if keyword in _REFERENCES and isinstance(value, str) and value.startswith("#"):
        return root + value[1:]
    if keyword in _BY_NAME and isinstance(value, dict):
        return {name: _with_references_under(root, part) for name, part in value.items()}
    return value if keyword in _VALUES else _with_references_under(root, value)
