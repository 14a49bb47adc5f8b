"""Reads prompts for a calibration from JSON lines: chats, OpenAI batch lines, or requests that a
gate recorded. Pure.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from twd.wire.job import ChatMessage

LINES_MAX: Final = 100_000
_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a right answer looks like; every given condition must hold."""

    equals: str | None = None
    contains: str | None = None
    regex: Annotated[str, Meta(max_length=1024)] | None = None
    number: float | None = None
    schema: dict[str, Any] | None = None

    def holds(self, text: str) -> bool:
        """Whether an answer is right."""
        return all(
            (
                self.equals is None or text.strip() == self.equals.strip(),
                self.contains is None or self.contains.lower() in text.lower(),
                self.regex is None or re.search(self.regex, text) is not None,
                self.number is None or self.number in _numbers(text)[-1:],
                self.schema is None or _fits(_json(text), self.schema),
            )
        )


class _Message(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class _Line(msgspec.Struct, frozen=True):
    messages: Annotated[list[_Message], Meta(min_length=1)] = []
    prompt: str = ""
    body: "_Line | None" = None
    check: Check | None = None
    kind: str = ""
    conversation: str = ""
    max_tokens: Annotated[int, Meta(ge=1, le=8192)] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One prompt."""

    messages: tuple[ChatMessage, ...]
    check: Check | None = None
    kind: str = ""
    conversation: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The prompts of a file, its broken lines and the number of duplicates."""

    lines: list[Line]
    broken: list[str]
    doubled: int

    @property
    def hash(self) -> str:
        """A hash of all prompts; their order does not matter."""
        each = sorted(msgspec.json.encode(line.messages) for line in self.lines)
        return sha256(b"\n".join(each)).hexdigest()[:16]


def read_lines(text: Iterable[str]) -> Read:
    """Read all prompts of a file. Broken lines are returned with their number; a prompt that occurs
    twice counts once.
    """
    lines: list[Line] = []
    broken: list[str] = []
    seen: set[bytes] = set()
    doubled = 0
    for number, row in enumerate(text, 1):
        if not row.strip():
            continue
        try:
            line = _line(msgspec.json.decode(row, type=_Line))
            if line.check is not None and line.check.regex is not None:
                re.compile(line.check.regex)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, re.error) as error:
            broken.append(f"line {number}: {error}")
            continue
        key = msgspec.json.encode(line.messages)
        if key in seen:
            doubled += 1
        elif len(lines) < LINES_MAX:
            seen.add(key)
            lines.append(line)
    return Read(lines, broken, doubled)


def _line(told: _Line) -> Line:
    body = told.body or told
    messages = tuple(ChatMessage(role=one.role, content=one.content) for one in body.messages)
    if not messages and body.prompt:
        messages = (ChatMessage(role="user", content=body.prompt),)
    if not messages or messages[-1].role == "assistant":
        raise ValueError("it needs messages, the last of them the user's, or a prompt")
    first = next((one.content for one in messages if one.role == "user"), "")
    conversation = told.conversation or sha256(first.encode("utf-8", "replace")).hexdigest()[:16]
    return Line(messages, told.check, told.kind, conversation, body.max_tokens)


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def _json(text: str) -> Any:
    start = min((place for mark in "[{" if (place := text.find(mark)) >= 0), default=-1)
    end = max(text.rfind("]"), text.rfind("}"))
    try:
        return msgspec.json.decode(text[start : end + 1] if start >= 0 else text)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.UNSET


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value has the types, fields and enum values of a schema; other keywords are ignored."""
    if value is msgspec.UNSET:
        return False
    kind = schema.get("type")
    if isinstance(kind, str) and not (isinstance(value, _TYPES.get(kind, (object,))) and _is_kind(value, kind)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return all(_parts_fit(value, schema))


def _is_kind(value: Any, kind: str) -> bool:
    return kind == "boolean" or not isinstance(value, bool)


def _parts_fit(value: Any, schema: dict[str, Any]) -> Iterator[bool]:
    if isinstance(value, dict):
        yield all(name in value for name in schema.get("required", ()))
        for name, inner in schema.get("properties", {}).items():
            yield name not in value or _fits(value[name], inner)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        yield all(_fits(one, schema["items"]) for one in value)
