"""Calls as Gemma writes them, as rules: objects with bare keys, whose texts have quotes of their own and no escapes."""

from functools import partial

from twd.chat.tool_calls.tagged_rules import ANYTHING, KEY, Mark, can_be_kept
from twd.grammar.json.keywords import CONSTRAINTS, Schema, checked, count_of, types_of
from twd.grammar.json.rules import chain, enclosed, filled, literal, maybe, rule, separated
from twd.grammar.json.schema import SchemaRules, listed
from twd.grammar.raw_text import Inexpressible, RawText, without
from twd.grammar.rules import EMPTY, Alternation, CharClass, Expr, Repeat, Terminal

_QUOTE = '<|"|>'
_END = "<tool_call|>"
_DEPTH_MAX = 16
_KEY_SIGNS = CharClass(((0x24, 0x24), (0x2D, 0x2E), (0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)))
_VALUE = "loose value"


def any_call(rules: SchemaRules, names: list[str], schemas: list[object], mark: Mark) -> Expr:
    """Return the rule for a call of any of the tools."""
    free = chain(Terminal(b"{"), without(rules, _END, others=[mark(_QUOTE)]))
    objects = _Objects(rules, mark)
    rules.add("room", EMPTY)
    calls = []
    for index, (name, schema) in enumerate(zip(names, schemas, strict=True)):
        kept = schema != ANYTHING and can_be_kept(schemas, partial(_tried, mark=mark, schema=schema, at=f"#/{index}"))
        arguments = objects.arguments(schema, f"#/{index}") if kept else free
        calls.append(chain(Terminal(f"call:{name}".encode()), arguments))
    return Alternation(tuple(calls))


def _tried(rules: SchemaRules, mark: Mark, schema: object, at: str) -> Expr:
    return _Objects(rules, mark).arguments(schema, at)


class _Objects:
    def __init__(self, rules: SchemaRules, mark: Mark) -> None:
        self._rules = rules
        self._quote = mark(_QUOTE)
        self._raw = RawText(rules, _QUOTE)
        text = self._quoted(self._raw.any)
        entry = chain(Alternation((text, Repeat(_KEY_SIGNS, 1, 64))), Terminal(b":"), rule(_VALUE))
        members = maybe(filled(chain(entry, Repeat(separated(entry), 0, None))))
        self._any_object = enclosed(b"{", members, b"}")
        scalars = (rule("number"), Terminal(b"true"), Terminal(b"false"), Terminal(b"null"))
        rules.add(
            _VALUE, Alternation((text, self._any_object, enclosed(b"[", listed(rule(_VALUE), 0, None), b"]"), *scalars))
        )

    def arguments(self, schema: object, at: str) -> Expr:
        """Return the rule for the arguments of a tool."""
        if types_of(checked(schema, at), at) != ["object"]:
            raise Inexpressible
        return self._value(schema, at)

    def _value(self, schema: object, at: str, depth: int = 0) -> Expr:
        found = checked(schema, at)
        said = CONSTRAINTS & found.keys()
        if depth > _DEPTH_MAX or said & {"allOf", "oneOf"} or (len(said) > 1 and said & {"$ref", "anyOf"}):
            raise Inexpressible
        if not said:
            return rule(_VALUE)
        if "$ref" in said:
            return self._value(*self._rules.resolved(found["$ref"], at), depth + 1)
        if "anyOf" in said:
            parts = enumerate(found["anyOf"])
            return Alternation(tuple(self._value(part, f"{at}/anyOf/{index}", depth + 1) for index, part in parts))
        if "enum" in said or "const" in said:
            return self._listed(found, said)
        return Alternation(tuple(self._typed(kind, {**found, "type": kind}, at, depth) for kind in types_of(found, at)))

    def _listed(self, schema: Schema, said: frozenset[str]) -> Expr:
        if len(said) > 1:
            raise Inexpressible
        values = schema["enum"] if "enum" in said else [schema["const"]]
        return Alternation(tuple(self._literal(value) for value in values))

    def _literal(self, value: object) -> Expr:
        if isinstance(value, str):
            return self._quoted(self._raw.literal(value))
        if isinstance(value, bool | int) or value is None:
            return literal(value)
        raise Inexpressible

    def _typed(self, kind: str, schema: Schema, at: str, depth: int) -> Expr:
        match kind:
            case "string":
                return self._quoted(self._raw.string(schema, at) or self._raw.any)
            case "object":
                return self._object(schema, at, depth)
            case "array":
                return self._array(schema, at, depth)
        return self._rules.of(schema, at)

    def _object(self, schema: Schema, at: str, depth: int) -> Expr:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        more = schema.get("additionalProperties", not properties)
        if {"minProperties", "maxProperties"} & schema.keys() or set(required) - {*properties}:
            raise Inexpressible
        if more is True and not properties and depth:
            return self._any_object
        if more is not False or not all(map(KEY.fullmatch, properties)):
            raise Inexpressible
        entries = [  # in the order in which templates show them
            (
                chain(Terminal(f"{key}:".encode()), self._value(part, f"{at}/properties/{key}", depth + 1)),
                key in required,
            )
            for key, part in sorted(properties.items(), key=lambda entry: entry[0].lower())
        ]
        return enclosed(b"{", self._rules.entries(entries, EMPTY, EMPTY), b"}")

    def _array(self, schema: Schema, at: str, depth: int) -> Expr:
        least, most = count_of(schema, "minItems", at) or 0, count_of(schema, "maxItems", at)
        if "prefixItems" in schema or isinstance(schema.get("items"), list) or (most is not None and least > most):
            raise Inexpressible
        item = self._value(schema.get("items", True), f"{at}/items", depth + 1)
        return enclosed(b"[", listed(item, least, most), b"]")

    def _quoted(self, text: Expr) -> Expr:
        return chain(self._quote, text, self._quote)
