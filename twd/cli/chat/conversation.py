"""A conversation: its messages, and the request for the next answer."""

from dataclasses import dataclass, field
from typing import Any

import msgspec


class ChatTurn(msgspec.Struct, frozen=True):
    """One message."""

    role: str
    content: str


@dataclass
class Conversation:
    """A conversation. A question that got no answer is replaced by the next one."""

    model: str = "default"
    system: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    direct: bool = False
    compare: bool = False
    turns: list[ChatTurn] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether a question has no answer yet."""
        return bool(self.turns) and self.turns[-1].role == "user"

    def ask(self, question: str) -> None:
        """Add a question."""
        if self.waits:
            self.turns.pop()
        self.turns.append(ChatTurn("user", question))

    def answered(self, text: str) -> None:
        """Add the answer, or the part of it that came."""
        if text and self.waits:
            self.turns.append(ChatTurn("assistant", text))

    def take_back(self) -> bool:
        """Remove the last answer, so that its question is open again; returns False if there is none."""
        if self.turns and not self.waits:
            self.turns.pop()
        return self.waits

    def forget(self) -> None:
        """Remove all messages; model and instructions stay."""
        self.turns.clear()

    def request(self, direct: bool, seed: int | None) -> dict[str, Any]:
        """The body of the request for the next answer."""
        system = [ChatTurn("system", self.system)] if self.system else []
        wanted = {
            "model": self.model,
            "messages": msgspec.to_builtins([*system, *self.turns]),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed,
            "twd": {"speculation": "off"} if direct else None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def document(self) -> dict[str, Any]:
        """Return what `/save` writes."""
        names = ("model", "system", "temperature", "max_tokens", "seed")
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, "")}
        return given | {"messages": msgspec.to_builtins(self.turns)}


class LineJoiner:
    """Joins typed lines: a last backslash goes on, three quotation marks open and close a block."""

    QUOTES = '"""'

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._quoted = False

    @property
    def open(self) -> bool:
        """Whether more is expected."""
        return bool(self._lines) or self._quoted

    def add(self, line: str) -> str | None:
        """Take a line; returns the whole when it is complete."""
        if self._quoted or (not self._lines and line.lstrip().startswith(self.QUOTES)):
            return self._in_quotes(line)
        if line.endswith("\\"):
            self._lines.append(line[:-1])
            return None
        return self._whole(line)

    def _in_quotes(self, line: str) -> str | None:
        if not self._quoted:
            self._quoted = True
            line = line.lstrip().removeprefix(self.QUOTES)
            if not line:
                return None
        if not line.rstrip().endswith(self.QUOTES):
            self._lines.append(line)
            return None
        self._quoted = False
        return self._whole(line.rstrip().removesuffix(self.QUOTES))

    def _whole(self, last: str) -> str:
        text = "\n".join([*self._lines, last])
        self.drop()
        return text

    def drop(self) -> None:
        """Forget what was begun."""
        self._lines, self._quoted = [], False
