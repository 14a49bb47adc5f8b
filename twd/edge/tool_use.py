"""Tools in a request: which are offered, what makes the model call, and who reads the calls."""

from collections.abc import Callable
from typing import Any

import msgspec

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta
from twd.chat.tool_calls.formats import ToolFormat, function_schemas, strict_calls, tool_grammar
from twd.chat.tool_calls.stream import ToolCallStream
from twd.edge.openai.types import NamedTool, ResponseFormat, SchemaFormat, Tool
from twd.edge.reading import AnswerParser, PlainAnswerParser
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Grammar, GrammarKind

ToolChoice = str | NamedTool | None


def raw_tools(tools: list[Tool] | None, choice: ToolChoice) -> list[msgspec.Raw]:
    """The tools that the model gets to see, in OpenAI's shape; none where it may not call."""
    if choice == "none":
        return []
    return [msgspec.Raw(msgspec.json.encode(_plain(tool))) for tool in tools or ()]


def _plain(tool: Tool) -> dict[str, Any]:
    function = {name: value for name, value in msgspec.structs.asdict(tool.function).items() if value is not None}
    return {"type": "function", "function": function}


def check_tools(tools: list[Tool] | None, choice: ToolChoice) -> None:
    """Refuse names that come twice, and a choice without tools."""
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
    """What the answer must follow: calls where the choice demands one, the shape that was asked for, or, in calls that
    the model may make, the schemas of strict tools."""
    forced = _call_grammar(tools, choice, parallel, found)
    return forced or _with_format(tools, answer, asked, found) or strict_calls(tools, found)


def _call_grammar(tools: list[msgspec.Raw], choice: ToolChoice, parallel: bool, found: ToolFormat) -> Grammar | None:
    """What makes the model call, where the choice says that it must."""
    if isinstance(choice, NamedTool):
        return tool_grammar(tools, choice.function.name, False, found)
    return tool_grammar(tools, "required", parallel, found) if choice == "required" else None


def _with_format(
    tools: list[msgspec.Raw], answer: ResponseFormat | None, grammar: Grammar | None, found: ToolFormat
) -> Grammar | None:
    """A schema for the answer and tools that may be called: either is allowed, nothing else."""
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
    """Reads calls, and tells the first: the client wants no others beside it."""

    def __init__(self, calls: ToolCallStream) -> None:
        self._calls = calls

    def feed(self, text: str) -> list[Delta]:
        """Take more text; returns what is certain by now."""
        return _without_more_calls(self._calls.feed(text))

    def finish(self) -> list[Delta]:
        """No more text will come; returns the rest."""
        return _without_more_calls(self._calls.finish())


def _without_more_calls(deltas: list[Delta]) -> list[Delta]:
    return [delta for delta in deltas if isinstance(delta, ContentDelta | ThoughtDelta) or delta.index == 0]


def reader_for(tools: list[msgspec.Raw], parallel: bool) -> Callable[[], AnswerParser]:
    """Makes what reads an answer: it looks for calls where tools were offered."""
    if not tools:
        return PlainAnswerParser
    schemas = function_schemas(tools)
    return (lambda: ToolCallStream(schemas)) if parallel else (lambda: FirstCallOnly(ToolCallStream(schemas)))
