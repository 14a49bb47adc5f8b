"""Merges two JSON schemas into one that demands what both demand."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from twd.grammar.json.keywords import CONSTRAINTS, TYPES, Schema, entries_of, places_of, schema_error

_ANNOTATIONS = frozenset(
    [
        *("$defs", "definitions", "title", "description", "default", "examples", "example", "$schema", "$id"),
        *("$comment", "$anchor", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType"),
        "discriminator",
    ]
)
"""Keywords that do not restrict values."""

_HIGHER = frozenset(["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"])
_LOWER = frozenset(["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"])
_ARRAY = frozenset(["prefixItems", "items"])
_MERGED_TOGETHER = _ARRAY | {"const", "properties", "additionalProperties"}
"""Keywords that must be merged together."""


def weight(schema: Schema) -> int:
    """How much there is to read, or to merge: everything in it that says which values fit, counted."""
    return 1 + sum(_parts_in(value) for key, value in schema.items() if key not in _ANNOTATIONS)


class SchemaMerger:
    """Merges schemas of one document."""

    def __init__(self) -> None:
        self._joined: dict[tuple[int, ...], Schema] = {}
        """What demands several parts at once, by their ids: one schema for each such set, so that schemas that refer to
        themselves come to an end."""

    def merged(self, one: Schema, other: Schema, at: str) -> Schema:
        """Raises where two demands on one thing have no common form."""
        one, other = _with_open_bounds(one), _with_open_bounds(other)
        whole = dict(one)
        for key, value in other.items():
            whole[key] = self._both(key, one[key], value, at) if key in one else value
        if "const" in one and "const" in other and not _same(one["const"], other["const"]):
            whole["enum"] = []
        return whole | self._members(one, other) | self._items(one, other, at)

    def _both(self, key: str, one: Any, other: Any, at: str) -> Any:
        if key not in CONSTRAINTS or key in _MERGED_TOGETHER or _same(one, other):
            return one
        if key in ("anyOf", "oneOf"):
            return [{"allOf": [option, {key: other}]} for option in entries_of(one, f"{at}/{key}")]
        if key == "required":
            return list(dict.fromkeys([*one, *other]))
        if key == "enum":
            return common(one, other)
        if key == "type":
            return _common_types(one, other)
        if key in _HIGHER:
            return max(one, other)
        if key in _LOWER:
            return min(one, other)
        raise schema_error(at, f"two demands for '{key}' cannot be combined")

    def _members(self, one: Schema, other: Schema) -> Schema:
        """Each property as both have it; where one does not declare it, it is one of the additional ones there."""
        found: Schema = {}
        if "properties" in one or "properties" in other:
            names = {**one.get("properties", {}), **other.get("properties", {})}
            found["properties"] = {name: self._all_of(_member(one, name), _member(other, name)) for name in names}
        if "additionalProperties" in one or "additionalProperties" in other:
            found["additionalProperties"] = self._all_of(_additional(one), _additional(other))
        return found

    def _items(self, one: Schema, other: Schema, at: str) -> Schema:
        if _ARRAY.isdisjoint(one) or _ARRAY.isdisjoint(other):
            return {}
        (left, left_rest), (right, right_rest) = places_of(one, at), places_of(other, at)
        longest = max(len(left), len(right))
        left = [*left, *[left_rest] * (longest - len(left))]
        right = [*right, *[right_rest] * (longest - len(right))]
        return {
            "prefixItems": list(map(self._all_of, left, right)),
            "items": self._all_of(left_rest, right_rest),
        }

    def _all_of(self, one: object, other: object) -> object:
        """A schema that demands both. It holds each part once, however often it is merged with what it came from."""
        if _same(one, other):
            return one
        parts = {id(part): part for part in [*_all_in(one), *_all_in(other)]}
        if any(part is False for part in parts.values()):
            return False
        if len(parts) < 2:
            return next(iter(parts.values()), True)
        return self._joined.setdefault(tuple(parts), {"allOf": list(parts.values())})


def common(one: Sequence[object], other: Sequence[object]) -> list[object]:
    """The values of one list that stand in the other, too."""
    others = set(map(written, other))
    return [value for value in one if written(value) in others]


def _with_open_bounds(schema: Schema) -> Schema:
    """The same with numbers for `exclusiveMinimum` and its like, which once told that `minimum` is exclusive."""
    whole = schema
    for closed, opened in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(whole.get(opened), bool):
            whole = {key: value for key, value in whole.items() if key != opened}
            if schema[opened] and closed in whole:
                whole[opened] = whole.pop(closed)
    return whole


def _member(schema: Schema, name: str) -> object:
    return schema.get("properties", {}).get(name, _additional(schema))


def _additional(schema: Schema) -> object:
    return schema.get("additionalProperties", True)


def _all_in(schema: object) -> list[object]:
    """The parts of what demands several, and nothing else; of what demands nothing, none."""
    match schema:
        case {"allOf": [*parts], **rest} if not rest:
            return parts
    return [] if schema is True or schema == {} else [schema]


def _parts_in(value: object) -> int:
    match value:
        case list():
            return 1 + sum(map(_parts_in, value))
        case dict():
            return 1 + sum(map(_parts_in, value.values()))
    return 1


def _same(one: object, other: object) -> bool:
    """Whether two values are equal as JSON: true is not 1 there."""
    return one is other or (one == other and written(one) == written(other))


def written(value: object) -> str:
    """The same for all values that are equal as JSON."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)


def _common_types(one: Any, other: Any) -> list[str]:
    named = [kind if isinstance(kind, list) else [kind] for kind in (one, other)]
    left, right = ([kind for kind in TYPES if kind in kinds] for kinds in named)
    common = [kind for kind in left if kind in right]
    mixed = ("integer" in left and "number" in right) or ("number" in left and "integer" in right)
    return [*common, "integer"] if mixed and not {"integer", "number"} & {*common} else common
