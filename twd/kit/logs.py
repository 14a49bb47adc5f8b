"""Logging: text lines in a terminal, JSON elsewhere. Secrets are masked; prompts and answers are not logged."""

import datetime
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final, TextIO

import msgspec
from msgspec import inspect as shape

from twd.settings.model import LogConfig
from twd.settings.values import plain

MASK: Final = "***"
_BEARER: Final = re.compile(r"(?i)(bearer\s+|token[=:]\s*|password[=:]\s*)[^\s,;\"']+")
_URL_LOGIN: Final = re.compile(r"(\w+://)[^/\s@]+@")
_COLOURS: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_SHORTEST_SECRET: Final = 4


def set_up(log: LogConfig, *, secrets: Iterable[str] = (), stream: TextIO | None = None, about: dict[str, Any]) -> None:
    """Send all logging of this process to one stream; the fields of `about` are added to every JSON line."""
    stream = stream or sys.stderr
    human = log.format == "human" or (log.format == "auto" and stream.isatty())
    handler = _Handler(stream)
    mask = Masker(secrets)
    handler.setFormatter(HumanFormatter(mask, stream.isatty()) if human else JsonFormatter(mask, about))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log.level.upper())
    for noisy in ("asyncio", "nats", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Handler(logging.StreamHandler[TextIO]):
    """Drops a log line that cannot be written, as on a full disk: an error message could not be written either."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass all errors other than OSError to logging."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class Masker:
    """Replaces secrets in a text: the known ones, and what looks like a token or password."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _URL_LOGIN.sub(rf"\1{MASK}@", _BEARER.sub(rf"\1{MASK}", text))


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, mask: Masker, about: dict[str, Any]) -> None:
        super().__init__()
        self._mask = mask
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), **self._about, "logger": record.name}
        return json.dumps({**line, "text": self._mask(_text(record))}, ensure_ascii=False)


class HumanFormatter(logging.Formatter):
    """Formats a record as a text line: time, level, logger, message."""

    def __init__(self, mask: Masker, colour: bool) -> None:
        super().__init__()
        self._mask = mask
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of text."""
        at = datetime.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{at} {record.levelname.lower():7} {record.name.removeprefix('twd.')}: {self._mask(_text(record))}"
        code = _COLOURS.get(record.levelname) if self._colour else None
        return f"\033[{code}m{line}\033[0m" if code else line


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return f"{text}\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else text


def secrets_of(settings: msgspec.Struct) -> Iterator[str]:
    """Every secret that the settings hold."""
    for field in shape.type_info(type(settings)).fields:  # type: ignore[attr-defined]
        kind = plain(field.type)
        value = getattr(settings, field.name)
        if kind.secret and value:
            yield value
        else:
            yield from _secrets_in(value)


def _secrets_in(value: object) -> Iterator[str]:
    if isinstance(value, msgspec.Struct):
        yield from secrets_of(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _secrets_in(item)
