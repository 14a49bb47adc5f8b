"""Values as Python writes them, which some models write in calls; JSON's own words for true, false and null, too."""

import json
import re
from collections.abc import Generator

from twd.chat.tool_calls.reader import Finding, NotACall, TextEnded, TextReader

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,400})(?:\.\d{1,400})?(?:[eE][+-]?\d{1,3})?(?![\w.])", re.ASCII)
_WORD = re.compile(r"[\w.+\-]{1,820}")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_CLOSED = {"[": "]", "(": ")"}
_STOPS = {quote: re.compile(rf"[{quote}\\]") for quote in "'\""}
_BEHIND_STRINGS = ",:)]}"
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(\n)|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_ESCAPED |= {sign: sign for sign in "\\'\"/"}
_DEPTH_MAX = 32


def python_value(reader: TextReader, depth: int = 0) -> Finding:
    """A value, as JSON."""
    if depth > _DEPTH_MAX:
        raise NotACall
    first = yield from reader.peek()
    if first in "'\"":
        return json.dumps((yield from _string(reader)), ensure_ascii=False)
    if first == "{":
        return (yield from _members(reader, depth))
    if first in _CLOSED:
        return (yield from _items(reader, _CLOSED[first], depth))
    word = yield from reader.word(_WORD)
    if word not in _WORDS and not _NUMBER.fullmatch(word):
        raise NotACall
    return _WORDS.get(word, word)


def python_as_json(text: str) -> str | None:
    """A text that is one value, as JSON; None where it is none."""
    reader = TextReader()
    reader.text, reader.ended = text.strip() + ")", True
    steps = python_value(reader)
    try:
        while True:
            next(steps)
    except StopIteration as read:
        return str(read.value) if reader.at == len(reader.text) - 1 else None
    except (NotACall, TextEnded):
        return None


def _members(reader: TextReader, depth: int) -> Finding:
    reader.at += 1
    members: list[str] = []
    while not (yield from _ends(reader, "}", bool(members))):
        if (yield from reader.peek()) not in "'\"":
            raise NotACall
        key = yield from _string(reader)
        yield from reader.skip_space()
        yield from reader.require(":")
        yield from reader.skip_space()
        value = yield from python_value(reader, depth + 1)
        members.append(f"{json.dumps(key, ensure_ascii=False)}: {value}")
    return f"{{{', '.join(members)}}}"


def _items(reader: TextReader, closed: str, depth: int) -> Finding:
    reader.at += 1
    items: list[str] = []
    while not (yield from _ends(reader, closed, bool(items))):
        items.append((yield from python_value(reader, depth + 1)))
    return f"[{', '.join(items)}]"


def _ends(reader: TextReader, closed: str, begun: bool) -> Generator[None, None, bool]:
    """Go past the bracket that closes, or past the comma before what comes next."""
    yield from reader.skip_space()
    if (yield from reader.take(closed)):
        return True
    if begun:
        yield from reader.require(",")
        yield from reader.skip_space()
    return (yield from reader.take(closed))


def _string(reader: TextReader) -> Finding:
    """What stands between quotes. One within it that nobody escaped ends it only where a value may end: templates write
    texts as they are."""
    quote = yield from reader.peek()
    start = at = reader.at + 1
    while True:
        found = _STOPS[quote].search(reader.text, at)
        at = len(reader.text) if found is None else found.end()
        if found is None:
            yield from reader.more()
        elif found[0] == quote:
            reader.at = at
            yield from reader.skip_space()
            if reader.text[reader.at] in _BEHIND_STRINGS:
                reader.at = at
                return _decoded(reader.text[start : at - 1])
        else:
            reader.at = at
            yield from reader.peek()
            at += 1


def _decoded(written: str) -> str:
    try:
        text = _ESCAPE.sub(_unescaped, written)
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except ValueError:  # half of a surrogate pair, or no character at all
        raise NotACall from None


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        return chr(int(code, 16))
    return "" if found[4] else _ESCAPED.get(found[5], found[0])
