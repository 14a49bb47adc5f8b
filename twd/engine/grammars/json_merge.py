"""Two JSON schemas as one that demands what both demand."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from twd.engine.grammars.json_keywords import TYPES, Schema

_ANNOTATIONS = frozenset(
    [
        *("$defs", "definitions", "title", "description", "default", "examples", "example", "$schema", "$id"),
        *("$comment", "$anchor", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType"),
        "discriminator",
    ]
)
"""What says nothing about which values fit."""

_HIGHER = frozenset(["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"])
_LOWER = frozenset(["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"])


def weight(schema: Schema) -> int:
    """How much there is to read, or to merge: everything in it that says which values fit, counted."""
    return 1 + sum(_parts_in(value) for key, value in schema.items() if key not in _ANNOTATIONS)


def merged(one: Schema, other: Schema, fail: Callable[[str], Exception]) -> Schema:
    """Raises what `fail` makes where two demands on one thing have no common form."""
    placed, plain = (one, other) if "prefixItems" in one else (other, one)
    if "prefixItems" in placed and "prefixItems" not in plain and plain.get("items", True) is not True:
        raise fail("'items' cannot be combined with the 'prefixItems' of another schema: it means all items there")
    whole = dict(one)
    for key, value in other.items():
        whole[key] = _both(key, one[key], value, fail) if key in one else value
    return whole


def common(one: Sequence[object], other: Sequence[object]) -> list[object]:
    """The values of one list that stand in the other, too."""
    others = set(map(_written, other))
    return [value for value in one if _written(value) in others]


def _both(key: str, one: Any, other: Any, fail: Callable[[str], Exception]) -> Any:
    if one == other or key in _ANNOTATIONS:
        return one
    if key == "properties":
        return {**one, **other, **{name: _all_of(one[name], other[name]) for name in one.keys() & other.keys()}}
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
    raise fail(f"two demands for '{key}' cannot be combined")


def _all_of(one: object, other: object) -> object:
    """A schema that demands both. It holds each part once, however often it is merged with what it came from."""
    if one == other:
        return one
    return {"allOf": list({id(part): part for part in [*_all_in(one), *_all_in(other)]}.values())}


def _all_in(schema: object) -> list[object]:
    match schema:
        case {"allOf": [*parts], **rest} if not rest:
            return parts
    return [schema]


def _parts_in(value: object) -> int:
    match value:
        case list():
            return 1 + sum(map(_parts_in, value))
        case dict():
            return 1 + sum(map(_parts_in, value.values()))
    return 1


def _written(value: object) -> str:
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
