"""Checks the keywords of a JSON schema one by one."""

from decimal import Decimal
from types import UnionType
from typing import Any
from urllib.parse import unquote

from twd.grammar.rules import bad_grammar
from twd.wire.failures import FailureCode, TwdError

Schema = dict[str, Any]

NEVER: Schema = {"enum": []}
"""A schema that no value fits."""

_COUNT_MAX = 100_000
_NEVER_REACHED = 1_000_000_000
"""Larger limits count as no limit: generators of schemas write a very large number for 'no limit'."""
_NUMBER_DIGITS_MAX = 18
_NUMERIC = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"])
_OF_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset(["properties", "required", "additionalProperties", "minProperties", "maxProperties"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "number": _NUMERIC,
    "integer": _NUMERIC,
    "boolean": frozenset(),
    "null": frozenset(),
}
TYPES = tuple(_OF_TYPE)
CONSTRAINTS = frozenset(["$ref", "type", "enum", "const", "anyOf", "oneOf", "allOf"]).union(*_OF_TYPE.values())
_REFUSED = frozenset(
    [
        *("not", "if", "then", "else", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas"),
        *("dependencies", "contains", "minContains", "maxContains", "uniqueItems", "multipleOf", "additionalItems"),
        *("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    ]
)
_HARMLESS = {"uniqueItems": False, "unevaluatedProperties": True, "unevaluatedItems": True, "multipleOf": 1}
"""The supported values of these keywords: a multiple of 1 is a whole number."""

_SHAPES: dict[str, tuple[type | UnionType, str]] = {
    **dict.fromkeys(["properties", "$defs", "definitions"], (dict, "an object")),
    **dict.fromkeys(["required", "enum", "anyOf", "oneOf", "allOf", "prefixItems"], (list, "a list")),
    **dict.fromkeys(["$ref", "pattern", "format"], (str, "a string")),
    **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems"], (int, "a number")),
    **dict.fromkeys(["minProperties", "maxProperties"], (int, "a number")),
    **dict.fromkeys(sorted(_NUMERIC), (int | Decimal, "a number")),
    "type": (str | list, "a type or a list of types"),
}


class NothingFits(TwdError):
    """Raised when no value fits a part of the schema; no mistake if there is an alternative."""

    def __init__(self, at: str, message: str) -> None:
        super().__init__(FailureCode.BAD_GRAMMAR, f"JSON schema, {at}: {message}.", "grammar")


def schema_error(at: str, message: str) -> TwdError:
    """Return the error for a mistake at a place of the schema."""
    return bad_grammar(f"JSON schema, {at}: {message}.")


def checked(schema: object, at: str) -> Schema:
    """Return the schema as an object; raises if it contains what we cannot enforce."""
    if isinstance(schema, bool):
        return {} if schema else NEVER
    if not isinstance(schema, dict):
        raise schema_error(at, "a schema must be an object, true or false")
    for key in _REFUSED & schema.keys():
        if schema[key] != _HARMLESS.get(key, _REFUSED):
            raise schema_error(at, f"'{key}' is not supported")
    for key, value in schema.items():
        shape, meaning = _SHAPES.get(key, (object, ""))
        if not isinstance(value, shape):
            raise schema_error(at, f"'{key}' must be {meaning}")
    if not all(isinstance(name, str) for name in schema.get("required", ())):
        raise schema_error(at, "'required' must be a list of names")
    return schema


def types_of(schema: Schema, at: str) -> list[str]:
    """Return the types that the schema allows; without `type`, those that its other keywords apply to."""
    named = schema.get("type")
    if named is None:
        return [kind for kind, keys in _OF_TYPE.items() if keys & schema.keys() and kind != "integer"] or ["any"]
    names = named if isinstance(named, list) else [named]
    if not names:
        raise NothingFits(at, "no type is left that a value may have")
    for name in names:
        if not isinstance(name, str) or name not in _OF_TYPE:
            raise schema_error(at, f"there is no type {name!r}")
    return list(dict.fromkeys(names))


def constrains(schema: Schema) -> bool:
    """Return whether the schema restricts its values."""
    return not CONSTRAINTS.isdisjoint(schema)


def entries_of(value: object, at: str, *, empty: bool = False) -> list[object]:
    """The value as a list that is not empty, unless it may be."""
    if not isinstance(value, list) or not (value or empty):
        raise schema_error(at, "a list with at least one entry must stand here")
    return value


def places_of(schema: Schema, at: str) -> tuple[list[object], object]:
    """The schemas of an array's first items, and that of all behind them."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, True
    return entries_of(schema.get("prefixItems", []), f"{at}/prefixItems", empty=True), items


def steps_of(reference: str) -> list[str]:
    """The names on the way to what a reference inside a document points to, from the whole of it."""
    return [unquote(step).replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:]]


def count_of(schema: Schema, key: str, at: str) -> int | None:
    """A keyword that counts something."""
    value = schema.get(key)
    if value is None or (key.startswith("max") and value >= _NEVER_REACHED):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _COUNT_MAX:
        raise schema_error(at, f"'{key}' must be a whole number from 0 to {_COUNT_MAX}")
    return value


def decimal_of(schema: Schema, key: str, at: str) -> Decimal | None:
    """A keyword that bounds a number."""
    value = schema.get(key)
    if value is None or isinstance(value, bool):
        return None
    digits = f"{Decimal(value):f}" if abs(Decimal(value).adjusted()) <= _NUMBER_DIGITS_MAX else ""
    if not digits or len(digits) > 2 * _NUMBER_DIGITS_MAX:
        raise schema_error(at, f"'{key}' has more than {_NUMBER_DIGITS_MAX} digits")
    return Decimal(value)


def is_of_type(value: object, kind: str) -> bool:
    """Return whether a JSON value has this type."""
    match value:
        case bool():
            return kind == "boolean"
        case None:
            return kind == "null"
        case int():
            return kind in ("integer", "number")
        case Decimal():
            return kind == "number" or (kind == "integer" and value == value.to_integral_value())
        case str():
            return kind == "string"
        case list():
            return kind == "array"
    return kind == "object"


def plain(value: object) -> object:
    """Return a JSON value without Decimals."""
    match value:
        case Decimal():
            return float(value)
        case list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value
