"""Arguments of tool calls as JSON, as the tool's schema types them."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from twd.chat.tool_calls.python_calls import python_as_json
from twd.chat.tool_calls.reader import NotACall
from twd.grammar.json.keywords import TYPES, is_of_type, steps_of
from twd.wire.reading import read_as


def argument(schema: Any, key: str, value: str, told: list[Any] | None = None) -> str:
    """An argument's JSON, from what stands for it between tags; the types that it may have are told there, too, or else
    known from the tool's schema."""
    return typed(value, (_kinds(schema, key) if told is None else told))


def typed(value: str, kinds: list[Any]) -> str:
    """The JSON of a value that may have these types."""
    if "boolean" in kinds and value.strip() in ("True", "False"):  # as templates write earlier calls
        value = value.lower()
    if "string" in kinds and (value != "null" or "null" not in kinds):
        return json.dumps(value, ensure_ascii=False)
    if is_json(value):
        return value.strip()
    as_python = python_as_json(value) if "object" in kinds or "array" in kinds else None
    return as_python or json.dumps(value, ensure_ascii=False)


def as_arguments(written: str) -> str:
    """Arguments as JSON text; some models write them as a string with JSON in it, or as null."""
    if written.startswith('"'):
        inside = read_as(str, written)
        if inside is None:
            raise NotACall
        return inside
    if written == "null":
        return "{}"
    if not written.startswith("{"):
        raise NotACall
    return written


def is_json(text: str) -> bool:
    """Whether it is one JSON value."""
    return read_as(msgspec.Raw, text) is not None


def _kinds(schema: Any, key: str) -> list[Any]:
    """The JSON types that an argument may have; an unknown one is a string."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    part = properties.get(key) if isinstance(properties, dict) else None
    return kinds_in(part, schema) or ["string"]


def kinds_in(schema: Any, whole: Any) -> list[Any]:
    """The JSON types that a schema names, also by its alternatives, its values and what it refers to in the whole."""
    kinds: list[Any] = []
    for part in parts_of(schema, whole):
        named = part.get("type")
        values = [*_entries(part.get("enum")), *([part["const"]] if "const" in part else [])]
        kinds += named if isinstance(named, list) else [named] if named else _types_of(values)
    return kinds


def parts_of(schema: Any, whole: Any) -> Iterator[dict[str, Any]]:
    """The schema, its alternatives, and what they refer to in the whole."""
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for key in ("anyOf", "oneOf", "allOf"):
            waiting += _entries(part.get(key))
        waiting.append(_referred(part.get("$ref"), whole))


def _types_of(values: list[Any]) -> list[str]:
    return [kind for value in values for kind in TYPES if is_of_type(value, kind)]


def _referred(reference: Any, whole: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for name in steps_of(reference):
        whole = whole.get(name) if isinstance(whole, dict) else None
    return whole


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
