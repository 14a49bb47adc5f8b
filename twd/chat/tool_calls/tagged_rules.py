"""Rules for calls whose arguments are in tags of their own: the tool's name, then its arguments in order.

Each argument follows the tool's schema, and is written as it is parsed back.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from twd.chat.tool_calls.arguments import kinds_in
from twd.chat.tool_calls.formats import MAX_PARALLEL_CALLS, ToolFormat
from twd.grammar.json.keywords import CONSTRAINTS, TYPES, Schema, checked, entries_of, is_of_type, types_of
from twd.grammar.json.rules import DIGIT, SPACE, chain, maybe
from twd.grammar.json.schema import SchemaRules
from twd.grammar.program import possible
from twd.grammar.raw_text import Inexpressible, RawText, without
from twd.grammar.rules import EMPTY, Alternation, Concatenation, Expr, OneToken, Repeat, Terminal, flattened
from twd.wire.failures import TwdError

Mark = Callable[[str], Expr]
"""How a mark is written: as a control token, or as plain text."""

KEY = re.compile(r"[\w.\-$]{1,128}")
"""The pattern that a key must match to be found in a tag."""
_DEPTH_MAX = 16
_LINE = maybe(Terminal(b"\n"))
_NUMBER = Repeat(DIGIT, 1, 4)
_UNKEPT = frozenset(["$ref", "anyOf", "oneOf", "allOf", "enum", "const", "minProperties", "maxProperties"])
ANYTHING: Final[Schema] = {"type": "object"}
"""The schema for the arguments of a tool that is not strict."""


class CallTags(NamedTuple):
    """The tags with which a format writes calls."""

    opened: tuple[str, ...]
    """The text before the arguments; numbers are between these parts."""
    head: tuple[str, ...]
    """The text before a value; white space is between these parts."""
    tail: str
    end: str
    """The mark that ends the arguments; no argument contains it."""
    closed: str = ""
    """The text behind each of several calls."""
    trimmed: bool = False
    """Whether a line break around a value is not part of it."""
    text: str = ""
    """The attribute value for a string; empty: only the tool's schema tells the type."""
    other: dict[str, str] = {}
    """The attribute values for other types."""
    json: bool = False
    """Whether all arguments may be written as one JSON object."""
    inside: bool = False
    """Whether the mark before a call ends within a tag, so that no space may stand there."""


def _keyed(suffix: str, separator: str) -> CallTags:
    key, value = f"arg_key{suffix}>", f"arg_value{suffix}>"
    return CallTags(
        (f"{{name}}{separator}",),
        (f"<{key}{{key}}</{key}", f"<{value}"),
        f"</{value}",
        f"</tool_call{suffix}>",
        trimmed=True,
    )


def _invoke(prefix: str) -> CallTags:
    end = f"</{prefix}invoke>"
    head = f'<{prefix}parameter name="{{key}}">'
    return CallTags((f'<{prefix}invoke name="{{name}}">',), (head,), f"</{prefix}parameter>", end, closed=end)


_DSML = "｜DSML｜"
_TYPES = ("object", "array", "number", "integer", "boolean", "null")
_TAGS: dict[ToolFormat, CallTags] = {
    ToolFormat.FUNCTION: CallTags(
        ("{name}>",), ("<parameter={key}>",), "</parameter>", "</function>", trimmed=True, json=True, inside=True
    ),
    ToolFormat.KEYED: _keyed("", ""),
    ToolFormat.HUNYUAN: _keyed(":opensource", "<tool_sep:opensource>"),
    ToolFormat.MINIMAX: _invoke(""),
    ToolFormat.ATEM: _invoke("atem:"),
    ToolFormat.DSML: CallTags(
        ('{name}">',),
        (f'<{_DSML}parameter name="{{key}}" string="{{told}}">',),
        f"</{_DSML}parameter>",
        f"</{_DSML}invoke>",
        inside=True,
        text="true",
        other=dict.fromkeys(_TYPES, "false"),
    ),
    ToolFormat.KIMI_K3: CallTags(
        ('{name}" index="', '"<|sep|>'),
        ('<|open|>argument key="{key}" type="{told}"<|sep|>',),
        "<|close|>argument<|sep|>",
        "<|close|>call<|sep|>",
        inside=True,
        text="string",
        other={**{kind: kind for kind in _TYPES}, "integer": "number"},
    ),
}
FORMATS: Final = frozenset(_TAGS)


class LeafType(NamedTuple):
    """One type of a value, or `any`, with its schema."""

    kind: str
    schema: Schema
    at: str


def any_call(rules: SchemaRules, names: list[str], schemas: list[object], found: ToolFormat, mark: Mark) -> Expr:
    """Return the rule for a call of any tool; or for several calls, if the format groups them."""
    tags = _TAGS[found]
    free = _free(rules, tags, found, mark)
    if tags.inside:
        rules.add("room", EMPTY)
    raw = RawText(rules, tags.tail)
    calls = []
    for index, (name, schema) in enumerate(zip(names, schemas, strict=True)):
        tried = partial(_tried, tags=tags, mark=mark, schemas=schemas, index=index)
        kept = schema != ANYTHING and can_be_kept(schemas, tried)
        arguments = _Arguments(rules, raw, tags, mark, schemas).of(index) if kept else free
        calls.append(chain(*_opened(tags, name, mark), arguments))
    call = Alternation(tuple(calls))
    return Repeat(chain(SPACE, call, mark(tags.closed), SPACE), 1, MAX_PARALLEL_CALLS) if tags.closed else call


def _tried(rules: SchemaRules, tags: CallTags, mark: Mark, schemas: list[object], index: int) -> Expr:
    return _Arguments(rules, RawText(rules, tags.tail), tags, mark, schemas).of(index)


def can_be_kept(schemas: list[object], make: Callable[[SchemaRules], Expr]) -> bool:
    """Whether a tool's schema can be kept; tried apart: what is made of one that cannot would be in the way."""
    rules = SchemaRules(schemas)
    try:
        return possible(flattened(rules.rules(make(rules)), "root"))
    except (Inexpressible, TwdError, RecursionError, UnicodeEncodeError):
        return False


def _free(rules: SchemaRules, tags: CallTags, found: ToolFormat, mark: Mark) -> Expr:
    """Return the rule for any arguments."""
    end = mark(tags.end)
    markers = [one for one in map(mark, found.markers) if _is_token(one) and one != end]
    free = without(rules, tags.end, others=markers)
    if not tags.opened[-1].endswith("{name}"):
        return free
    return maybe(chain(Alternation((Terminal(b"\n"), Terminal(b" "), mark(tags.head[0].partition("{")[0]))), free))


def _is_token(expr: Expr) -> bool:
    return isinstance(expr, Concatenation) and any(isinstance(item, OneToken) for item in expr.items)


def _opened(tags: CallTags, name: str, mark: Mark) -> Iterator[Expr]:
    for index, part in enumerate(tags.opened):
        if index:
            yield _NUMBER
        yield _filled(part, mark, name=name)


def _filled(template: str, mark: Mark, **values: str) -> Expr:
    """What stands in braces is a value and no mark."""
    parts = re.split(r"\{(\w+)\}", template)
    return chain(*(Terminal(values[part].encode()) if index % 2 else mark(part) for index, part in enumerate(parts)))


class _Arguments:
    def __init__(self, rules: SchemaRules, raw: RawText, tags: CallTags, mark: Mark, schemas: list[object]) -> None:
        self._rules = rules
        self._raw = raw
        self._tags = tags
        self._mark = mark
        self._schemas = schemas
        self._whole = {str(index): schema for index, schema in enumerate(schemas)}

    def of(self, index: int) -> Expr:
        """Return the rule for the arguments of this tool."""
        at = f"#/{index}"
        schema = checked(self._schemas[index], at)
        properties, required = schema.get("properties", {}), schema.get("required", ())
        closed = schema.get("additionalProperties", not properties) is False
        if schema.keys() & _UNKEPT or types_of(schema, at) != ["object"] or not closed or set(required) - {*properties}:
            raise Inexpressible
        entries = [
            (chain(SPACE, self._argument(key, part, f"{at}/properties/{key}")), key in required)
            for key, part in properties.items()
        ]
        tagged = chain(*(entry if needed else maybe(entry) for entry, needed in entries), SPACE)
        return Alternation((tagged, chain(SPACE, self._rules.of(schema, at), SPACE))) if self._tags.json else tagged

    def _argument(self, key: str, schema: object, at: str) -> Expr:
        if not KEY.fullmatch(key):
            raise Inexpressible
        if self._tags.text:
            return Alternation(tuple(self._told(key, list(self._leaves(schema, at)))))
        if "string" not in (kinds_in(schema, self._whole) or ["string"]):
            return self._tagged(key, self._trimmed(self._raw.json(schema, at)))
        leaves = list(self._leaves(schema, at))
        texts = self._texts(leaves)
        if texts is None:
            return self._tagged(key, self._raw.any)
        kinds = {leaf.kind for leaf in leaves}
        if kinds - {"string", "null"}:  # the parser would read them as strings
            raise Inexpressible
        return self._tagged(key, Alternation((*texts, Terminal(b"null"))) if "null" in kinds else Alternation(texts))

    def _told(self, key: str, leaves: list[LeafType]) -> Iterator[Expr]:
        """Yield the rules for an argument as a string, and as each of its other types."""
        if any(leaf.kind in ("string", "any") for leaf in leaves):
            texts = self._texts(leaves)
            yield self._tagged(key, self._raw.any if texts is None else Alternation(texts), self._tags.text)
        if any(leaf.kind == "any" for leaf in leaves):
            leaves = [LeafType(kind, {"type": kind}, leaves[0].at) for kind in self._tags.other]
        said = {kind: told for kind, told in self._tags.other.items() if any(leaf.kind == kind for leaf in leaves)}
        for told in dict.fromkeys(said.values()):
            schemas = [leaf.schema for leaf in leaves if said.get(leaf.kind) == told]
            yield self._tagged(key, self._raw.json({"anyOf": schemas}, leaves[0].at), told)

    def _tagged(self, key: str, value: Expr, told: str = "") -> Expr:
        first, *others = (_filled(part, self._mark, key=key, told=told) for part in self._tags.head)
        return chain(first, *(chain(SPACE, part) for part in others), value, self._mark(self._tags.tail))

    # -- texts --------------------------------------------------------------------------------------

    def _texts(self, leaves: list[LeafType]) -> tuple[Expr, ...] | None:
        """Return the rules for the allowed strings; None if every string is allowed."""
        texts = [self._text(leaf) for leaf in leaves if leaf.kind in ("string", "any")]
        if not texts:
            raise Inexpressible
        return None if None in texts else tuple(self._trimmed(text) for text in texts if text is not None)

    def _text(self, leaf: LeafType) -> Expr | None:
        if leaf.kind == "any":
            return None
        if "enum" in leaf.schema:
            return Alternation(tuple(self._literal(value) for value in leaf.schema["enum"]))
        text = self._raw.string(leaf.schema, leaf.at)
        if text is not None and self._tags.trimmed and self._raw.may_write(text, "\n"):
            raise Inexpressible
        return text

    def _literal(self, value: str) -> Expr:
        if self._tags.trimmed and value.strip("\n") != value:
            raise Inexpressible
        return self._raw.literal(value)

    def _trimmed(self, value: Expr) -> Expr:
        return chain(_LINE, value, _LINE) if self._tags.trimmed else value

    # -- types --------------------------------------------------------------------------------------

    def _leaves(self, schema: object, at: str, depth: int = 0) -> Iterator[LeafType]:
        """The types that a value may have, each with what is asked of it; where that cannot be told apart, nothing is
        kept."""
        found = checked(schema, at)
        said = CONSTRAINTS & found.keys()
        if depth > _DEPTH_MAX or "allOf" in said or (len(said) > 1 and not said.isdisjoint(("$ref", "anyOf", "oneOf"))):
            raise Inexpressible
        if not said:
            yield LeafType("any", {}, at)
        elif "$ref" in said:
            yield from self._leaves(*self._rules.resolved(found["$ref"], at), depth + 1)
        elif "anyOf" in said or "oneOf" in said:
            key = min(said)
            parts = entries_of(found[key], f"{at}/{key}")
            leaves = [
                leaf
                for index, part in enumerate(parts)
                for leaf in self._leaves(part, f"{at}/{key}/{index}", depth + 1)
            ]
            kinds = ["number" if leaf.kind == "integer" else leaf.kind for leaf in leaves]
            if key == "oneOf" and (len(set(kinds)) < len(kinds) or "any" in kinds):
                raise Inexpressible
            yield from leaves
        elif "enum" in said or "const" in said:
            yield from _listed(found, said, at)
        else:
            for kind in types_of(found, at):
                yield LeafType(kind, {**found, "type": kind}, at)


def _listed(schema: Schema, said: frozenset[str], at: str) -> Iterator[LeafType]:
    """Yield the values of `enum` or `const`, by type."""
    if said - {"enum", "const", "type"} or {"enum", "const"} <= said:
        raise Inexpressible
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    allowed = types_of(schema, at) if "type" in said else TYPES
    for kind in ("string", "object", "array", "number", "boolean", "null"):
        fitting = [value for value in values if is_of_type(value, kind) and any(is_of_type(value, t) for t in allowed)]
        if fitting:
            yield LeafType(kind, {"enum": fitting}, at)
