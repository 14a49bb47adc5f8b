"""Reads the error message of a server, in any of the usual forms, and makes it fit for our messages."""

from typing import Any

import msgspec

from twd.wire.reading import NONSENSE

_LENGTH = 300


def read_trouble(body: bytes, secret: str = "") -> str:
    """The message of an error body as one clean line that never contains the key."""
    try:
        value = msgspec.json.decode(body)
    except NONSENSE:
        value = body.decode("utf-8", "replace")
    return clean(words_of(value), secret)


def words_of(value: Any, depth: int = 6) -> str:
    """The message inside an error value of any form."""
    if isinstance(value, str):
        return value
    if not depth:
        return ""
    if isinstance(value, list):
        return words_of(value[0], depth - 1) if value else ""
    if isinstance(value, dict):
        named = (value[name] for name in ("error", "message", "detail", "msg") if value.get(name))
        return words_of(next(named, ""), depth - 1)
    return ""


def clean(text: str, secret: str = "") -> str:
    """One printable line of limited length; never empty."""
    if secret:
        text = text.replace(secret, "…")
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _LENGTH]).split())
    if not line:
        return "no reason given"
    return line if len(line) <= _LENGTH else line[: _LENGTH - 1] + "…"
