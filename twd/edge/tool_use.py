"""Tools in a request: which ones are offered, what forces the model to call, and which parser reads the calls."""

from collections.abc import Callable
from typing import Any

import msgspec

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta
from twd.chat.tool_calls.formats import ToolFormat, function_schemas, strict_calls, tool_grammar
from twd.chat.tool_calls.stream import ToolCallStream
from twd.edge.openai.types import AllowedTools, NamedTool, ResponseFormat, SchemaFormat, Tool
from twd.edge.reading import AnswerParser, PlainAnswerParser
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

ToolChoice = str | NamedTool | None


def allowed(tools: list[Tool] | None, choice: ToolChoice | AllowedTools) -> tuple[list[Tool] | None, ToolChoice]:
    """The tools that may be called and the choice among them; raises for an allowed tool that is not there."""
    if not isinstance(choice, AllowedTools):
        return tools, choice
    named = [one.function.name for one in choice.allowed_tools.tools]
    known = {tool.function.name for tool in tools or ()}
    for name in named:
        if name not in known:
            raise TwdError(
                FailureCode.BAD_REQUEST, f"tool_choice allows {name!r}, and no tool has that name", "tool_choice"
            )
    return [tool for tool in tools or () if tool.function.name in named], choice.allowed_tools.mode


def raw_tools(tools: list[Tool] | None, choice: ToolChoice) -> list[msgspec.Raw]:
    """The tools that the model sees, in OpenAI's form; empty if it may not call any."""
    if choice == "none":
        return []
    return [msgspec.Raw(msgspec.json.encode(_plain(tool))) for tool in tools or ()]


def _plain(tool: Tool) -> dict[str, Any]:
    function = {name: value for name, value in msgspec.structs.asdict(tool.function).items() if value is not None}
    return {"type": "function", "function": function}


def check_tools(tools: list[Tool] | None, choice: ToolChoice) -> None:
    """Raise for tool names that occur twice, and for a tool choice without tools."""
    names = [tool.function.name for tool in tools or ()]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise TwdError(FailureCode.BAD_REQUEST, f"two tools are named {name!r}", f"tools[{index}].function.name")
    if choice not in (None, "none", "auto") and not names:
        raise TwdError(FailureCode.BAD_REQUEST, "tool_choice wants a call, but there are no tools", "tool_choice")


def grammar_for(
    tools: list[msgspec.Raw],
    choice: ToolChoice,
    parallel: bool,
    found: ToolFormat,
    answer: ResponseFormat | None = None,
    asked: Grammar | None = None,
) -> Grammar | None:
    """The grammar for the answer: forced calls if the tool choice demands one, else the requested format, or the
    schemas of strict tools in optional calls.
    """
    forced = _call_grammar(tools, choice, parallel, found)
    return forced or _with_format(tools, answer, asked, found) or strict_calls(tools, found)


def _call_grammar(tools: list[msgspec.Raw], choice: ToolChoice, parallel: bool, found: ToolFormat) -> Grammar | None:
    """The grammar that forces a call, if the tool choice demands one."""
    if isinstance(choice, NamedTool):
        return tool_grammar(tools, choice.function.name, False, found)
    return tool_grammar(tools, "required", parallel, found) if choice == "required" else None


def _with_format(
    tools: list[msgspec.Raw], answer: ResponseFormat | None, grammar: Grammar | None, found: ToolFormat
) -> Grammar | None:
    """A schema for the answer together with optional tools: the answer is either of them, nothing else."""
    if grammar is None or not tools or not isinstance(answer, SchemaFormat):
        return grammar
    calls = msgspec.json.decode(tool_grammar(tools, "required", False, found).text)
    schema = answer.json_schema.schema
    if "$ref" in grammar.text or "$defs" in calls:
        text = "tools and a shape of the answer whose schemas have references cannot be used together"
        raise TwdError(FailureCode.UNSUPPORTED, text, grammar.field)
    either = {"anyOf": [schema, *calls.get("anyOf", [calls])]}
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=msgspec.json.encode(either).decode(), field=grammar.field)


class FirstCallOnly:
    """Reads tool calls but returns only the first one: the client does not want parallel calls."""

    def __init__(self, calls: ToolCallStream) -> None:
        self._calls = calls

    def feed(self, text: str) -> list[Delta]:
        """Add text; returns the deltas that are certain now."""
        return _without_more_calls(self._calls.feed(text))

    def finish(self) -> list[Delta]:
        """The text has ended; returns the remaining deltas."""
        return _without_more_calls(self._calls.finish())


def _without_more_calls(deltas: list[Delta]) -> list[Delta]:
    return [delta for delta in deltas if isinstance(delta, ContentDelta | ThoughtDelta) or delta.index == 0]


def reader_for(tools: list[msgspec.Raw], parallel: bool) -> Callable[[], AnswerParser]:
    """A function that creates the parser of an answer; the parser looks for calls if tools were offered."""
    if not tools:
        return PlainAnswerParser
    schemas = function_schemas(tools)
    return (lambda: ToolCallStream(schemas)) if parallel else (lambda: FirstCallOnly(ToolCallStream(schemas)))
