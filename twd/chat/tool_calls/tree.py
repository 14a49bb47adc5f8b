"""Arguments as MiniMax-M3 writes them: what stands in objects and lists has elements of its own."""

import json
from collections.abc import Generator
from typing import Any

import msgspec

from twd.chat.tool_calls.arguments import kinds_in, parts_of, typed
from twd.chat.tool_calls.reader import NotACall, TextReader

_DEPTH_MAX = 32
_ITEM = "item"


class Element(msgspec.Struct, frozen=True):
    """What stands between a tag and the one that closes it: text, or other elements by their names."""

    text: str
    inner: list[tuple[str, "Element"]]


def element(reader: TextReader, mark: str, name: str, depth: int = 0) -> Generator[None, None, Element]:
    """What stands behind the opening tag of this name; before each tag stands the mark."""
    if depth > _DEPTH_MAX:
        raise NotACall
    text = yield from reader.until(mark)
    inner: list[tuple[str, Element]] = []
    while not (yield from reader.take(f"</{name}>")):
        yield from reader.require("<")
        key = yield from reader.until(">")
        if not key or key.startswith("/"):
            raise NotACall
        inner.append((key, (yield from element(reader, mark, key, depth + 1))))
        yield from reader.skip_space()
        yield from reader.require(mark)
    if inner and text.strip():
        raise NotACall
    return Element(text, inner)


def element_as_json(found: Element, schema: Any, key: str) -> str:
    """The argument `key` of a tool, as the schema of its arguments has it."""
    return json.dumps(_value(found, _member(schema, key, schema), schema), ensure_ascii=False)


def _value(found: Element, schema: Any, whole: Any) -> Any:
    kinds = kinds_in(schema, whole)
    if found.inner:
        if "array" in kinds or ("object" not in kinds and all(name == _ITEM for name, _ in found.inner)):
            items = _of_parts(schema, "items", whole)
            return [_value(inner, items, whole) for _, inner in found.inner]
        return {name: _value(inner, _member(schema, name, whole), whole) for name, inner in found.inner}
    if not found.text.strip() and "string" not in kinds and ("object" in kinds or "array" in kinds):
        return {} if "object" in kinds else []
    return json.loads(typed(found.text, kinds or ["string"]))


def _member(schema: Any, name: str, whole: Any) -> Any:
    for part in parts_of(schema, whole):
        properties = part.get("properties")
        if isinstance(properties, dict) and name in properties:
            return properties[name]
    return _of_parts(schema, "additionalProperties", whole)


def _of_parts(schema: Any, key: str, whole: Any) -> Any:
    return next((part[key] for part in parts_of(schema, whole) if key in part), None)
