"""Two JSON schemas as one that demands what both demand."""

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

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


def merged(one: Schema, other: Schema, fail: Callable[[str], Exception]) -> Schema:
    """Raises what `fail` makes where two demands on one thing have no common form."""
    whole = dict(one)
    for key, value in other.items():
        whole[key] = _both(key, one[key], value, fail) if key in one else value
    return whole


def _both(key: str, one: Any, other: Any, fail: Callable[[str], Exception]) -> Any:
    if one == other or key in _ANNOTATIONS:
        return one
    if key == "properties":
        shared = {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
        return {**one, **other, **shared}
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key == "enum":
        return [value for value in one if value in other]
    if key == "type":
        return _common_types(one, other)
    if key in _HIGHER:
        return max(one, other)
    if key in _LOWER:
        return min(one, other)
    raise fail(f"two demands for '{key}' cannot be combined")


def _common_types(one: Any, other: Any) -> list[str]:
    left, right = (kind if isinstance(kind, list) else [kind] for kind in (one, other))
    common = [kind for kind in left if kind in right]
    mixed = {"integer", "number"} <= {*left, *right} and "number" not in common
    return [*common, "integer"] if mixed and "integer" not in common else common
