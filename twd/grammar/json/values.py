"""Checks whether a value of `const` or `enum` fits a schema."""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from twd.grammar.automaton import Automaton
from twd.grammar.json.keywords import Schema, checked, is_of_type, places_of, schema_error, types_of
from twd.grammar.json.merge import written
from twd.grammar.json.patterns import pattern_rule
from twd.grammar.json.rules import json_rules, literal, quoted
from twd.grammar.program import build, possible
from twd.grammar.rules import flattened

_CHARACTERS_PER_PART = 256

Resolve = Callable[[str, str], tuple[object, str]]
"""What a reference that stands at a place points to, and the place of that."""


class ValueMatcher:
    """Looks at values by the schemas of one document; `count` is told how much there was to look at."""

    def __init__(self, resolve: Resolve, count: Callable[[int], None]) -> None:
        self._resolve = resolve
        self._count = count
        self._patterns: dict[str, Automaton | None] = {}
        self._listed: dict[int, tuple[Sequence[object], frozenset[str]]] = {}

    def fits(self, value: object, schema: object, at: str) -> bool:
        """Whether the value keeps to all that the schema says."""
        found = checked(schema, at)
        self._count(_effort(found))
        return (
            self._is_listed(value, found)
            and ("type" not in found or any(is_of_type(value, kind) for kind in types_of(found, at)))
            and self._within(value, found, at)
            and self._combined(value, found, at)
        )

    def distinct(self, values: Iterable[object]) -> list[object]:
        """Return the values without repeats."""
        found: dict[str, object] = {}
        for value in values:
            found.setdefault(self._written(value), value)
        return list(found.values())

    def _written(self, value: object) -> str:
        text = written(value)
        self._count(1 + len(text) // _CHARACTERS_PER_PART)
        return text

    def _is_listed(self, value: object, schema: Schema) -> bool:
        if "const" in schema and self._written(value) != self._written(schema["const"]):
            return False
        return "enum" not in schema or self._written(value) in self._all_of(schema["enum"])

    def _all_of(self, values: Sequence[object]) -> frozenset[str]:
        if id(values) not in self._listed:
            self._listed[id(values)] = values, frozenset(map(self._written, values))
        return self._listed[id(values)][1]

    def _combined(self, value: object, schema: Schema, at: str) -> bool:
        if "$ref" in schema and not self.fits(value, *self._resolve(schema["$ref"], at)):
            return False
        fitting = {
            key: sum(self.fits(value, part, f"{at}/{key}/{index}") for index, part in enumerate(schema[key]))
            for key in ("allOf", "anyOf", "oneOf")
            if key in schema
        }
        return (
            fitting.get("allOf") in (None, len(schema.get("allOf", ())))
            and fitting.get("anyOf") != 0
            and fitting.get("oneOf") in (None, 1)
        )

    def _within(self, value: object, schema: Schema, at: str) -> bool:
        """Whether it keeps what is asked of values of its type."""
        match value:
            case bool() | None:
                return True
            case int() | Decimal():
                whole = "multipleOf" not in schema or value == int(value)
                return whole and _beyond(value, schema, "minimum", 1) and _beyond(value, schema, "maximum", -1)
            case str():
                return _counts(len(value), schema, "Length") and self._matches(value, schema, at)
            case list():
                return _counts(len(value), schema, "Items") and self._all_items(value, schema, at)
            case dict():
                return _counts(len(value), schema, "Properties") and self._all_members(value, schema, at)
        return True

    def _matches(self, text: str, schema: Schema, at: str) -> bool:
        if "pattern" not in schema:
            return True
        self._count(len(text))
        automaton = self._automaton(schema["pattern"], at)
        if automaton is None:
            return False
        automaton.restart_effort()
        return automaton.accepts(automaton.after(automaton.start, literal(text).data))

    def _automaton(self, pattern: str, at: str) -> Automaton | None:
        """None for a pattern that is in no string."""
        if pattern not in self._patterns:
            self._count(len(pattern))
            inside = pattern_rule(pattern, lambda message: schema_error(at, message))
            table = flattened(json_rules() | {"root": quoted(inside)}, "root")
            self._patterns[pattern] = Automaton(build(table)) if possible(table) else None
        return self._patterns[pattern]

    def _all_items(self, items: list[Any], schema: Schema, at: str) -> bool:
        heads, rest = places_of(schema, at)
        places = [*heads, *[rest] * (len(items) - len(heads))]
        return all(self.fits(item, place, f"{at}/items") for item, place in zip(items, places, strict=False))

    def _all_members(self, members: dict[str, Any], schema: Schema, at: str) -> bool:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not all(name in members for name in schema.get("required", ())):
            return False
        return all(self.fits(item, properties.get(name, more), f"{at}/properties") for name, item in members.items())


def _effort(schema: Schema) -> int:
    """How much there is to look at for each value; what is listed as its values is looked up."""
    lists = (len(value) for key, value in schema.items() if key != "enum" and isinstance(value, list))
    return 1 + len(schema) + sum(lists)


def _beyond(value: int | Decimal, schema: Schema, closed: str, upwards: int) -> bool:
    """Whether a number is on the right side of a bound, however many digits that has."""
    opened = f"exclusive{closed.capitalize()}"
    for key, is_open in ((closed, schema.get(opened) is True), (opened, True)):
        bound = schema.get(key)
        if bound is not None and not isinstance(bound, bool):
            side = ((value > bound) - (value < bound)) * upwards
            if side < is_open:
                return False
    return True


def _counts(size: int, schema: Schema, what: str) -> bool:
    return bool(schema.get(f"min{what}", 0) <= size <= schema.get(f"max{what}", size))
