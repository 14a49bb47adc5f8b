"""Parses objects in Gemma's notation: keys without quotes, and its own quotes around strings."""

import re
from collections.abc import Generator
from typing import Any

from twd.chat.tool_calls.arguments import is_json
from twd.chat.tool_calls.reader import NotACall, TextReader
from twd.wire.reading import read_as

_QUOTE = '<|"|>'
_SCALAR = re.compile(r"[^,}\]]+")
_DEPTH_MAX = 32


def loose_object(reader: TextReader, depth: int = 1) -> Generator[None, None, dict[str, Any]]:
    """Parse an object behind its opening brace."""
    members = dict[str, Any]()
    while not (yield from reader.object_ends()):
        quoted = yield from reader.take(_QUOTE)
        key = yield from reader.until(_QUOTE if quoted else ":")
        if quoted:
            yield from reader.require(":")
        members[key.strip()] = yield from _value(reader, depth)
    return members


def _value(reader: TextReader, depth: int) -> Generator[None, None, Any]:
    if depth > _DEPTH_MAX:
        raise NotACall
    yield from reader.skip_space()
    if (yield from reader.take(_QUOTE)):
        return (yield from reader.until(_QUOTE))
    if (yield from reader.take("{")):
        return (yield from loose_object(reader, depth + 1))
    if not (yield from reader.take("[")):
        written = (yield from reader.word(_SCALAR)).strip()
        return read_as(Any, written) if is_json(written) else written
    items: list[Any] = []
    while True:
        yield from reader.skip_space()
        if (yield from reader.take("]")):
            return items
        if not (yield from reader.take(",")):
            items.append((yield from _value(reader, depth + 1)))
