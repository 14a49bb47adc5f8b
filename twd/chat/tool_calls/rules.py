"""Rules for calls that are not only JSON: a tool's name and marks around arguments that fit a schema."""

from collections.abc import Callable

import msgspec

from twd.chat.tool_calls import loose_rules, tagged_rules
from twd.chat.tool_calls.formats import ToolFormat, ToolSchemas
from twd.chat.tool_calls.tagged_rules import Mark
from twd.grammar.json import schema as json_schema
from twd.grammar.json.rules import DIGIT, chain, maybe
from twd.grammar.json.schema import SchemaRules
from twd.grammar.rules import Alternation, CharClass, Expr, Repeat, Terminal, bad_grammar, flattened
from twd.wire.failures import TwdError
from twd.wire.reading import read_as

_ID = CharClass(((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)))
_ID_LENGTH_MAX = 40
_NUMBER_DIGITS_MAX = 4
_ONE_BY_ONE = tagged_rules.FORMATS | {ToolFormat.LOOSE}
"""Formats whose arguments are not one JSON value."""


def parse(text: str, mark: Mark) -> dict[str, Expr]:
    """Return the rules for one call of any of the tools."""
    calls = read_as(ToolSchemas, text)
    if calls is None or calls.format not in {*_LAYOUTS, *_ONE_BY_ONE}:
        raise bad_grammar("The grammar holds no calls.")
    if len(read_as(list[msgspec.Raw], calls.schemas) or ()) != len(calls.names):
        raise bad_grammar("Each tool needs one schema.")
    return _tagged(calls, mark) if calls.format in _ONE_BY_ONE else _headed(calls, mark)


def _tagged(calls: ToolSchemas, mark: Mark) -> dict[str, Expr]:
    """Where the schemas are together too much to be kept, none is."""

    def any_call(rules: SchemaRules, schemas: list[object]) -> Expr:
        if calls.format is ToolFormat.LOOSE:
            return loose_rules.any_call(rules, calls.names, schemas, mark)
        return tagged_rules.any_call(rules, calls.names, schemas, calls.format, mark)

    try:
        rules = json_schema.parse_several(bytes(calls.schemas).decode(), any_call)
        flattened(rules, "root")
        return rules
    except (TwdError, RecursionError):
        anything = [tagged_rules.ANYTHING for _ in calls.names]
        return json_schema.parse_several(msgspec.json.encode(anything).decode(), any_call)


def _headed(calls: ToolSchemas, mark: Mark) -> dict[str, Expr]:
    layout = _LAYOUTS[calls.format]

    def any_call(rules: SchemaRules, schemas: list[object]) -> Expr:
        arguments = (rules.of(schema, f"#/{index}") for index, schema in enumerate(schemas))
        named = zip(calls.names, arguments, strict=True)
        return Alternation(tuple(layout(Terminal(name.encode()), one, mark) for name, one in named))

    return json_schema.parse_several(bytes(calls.schemas).decode(), any_call)


def _named(name: Expr, arguments: Expr, mark: Mark) -> Expr:
    numbered = chain(mark("[CALL_ID]"), Repeat(_ID, 1, _ID_LENGTH_MAX))
    return chain(name, maybe(numbered), mark("[ARGS]"), arguments)


def _kimi(name: Expr, arguments: Expr, mark: Mark) -> Expr:
    number = Repeat(DIGIT, 1, _NUMBER_DIGITS_MAX)
    return chain(Terminal(b"functions."), name, Terminal(b":"), number, mark("<|tool_call_argument_begin|>"), arguments)


def _deepseek(name: Expr, arguments: Expr, mark: Mark) -> Expr:
    apart = mark("<｜tool▁sep｜>")
    fenced = chain(Terminal(b"function"), apart, name, Terminal(b"\n```json\n"), arguments, Terminal(b"\n```"))
    return Alternation((chain(name, apart, arguments), fenced))


def _solar(name: Expr, arguments: Expr, mark: Mark) -> Expr:
    identity = Repeat(_ID, 1, _ID_LENGTH_MAX)
    return chain(identity, mark("<|tool_call:name|>"), name, mark("<|tool_call:args|>"), arguments)


_LAYOUTS: dict[ToolFormat, Callable[[Expr, Expr, Mark], Expr]] = {
    ToolFormat.NAMED: _named,
    ToolFormat.KIMI: _kimi,
    ToolFormat.DEEPSEEK: _deepseek,
    ToolFormat.SOLAR: _solar,
}
