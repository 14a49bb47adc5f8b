"""Reads the output of models that write in channels, such as gpt-oss: thoughts, tool calls and the answer are messages
of one turn.

`<|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>ANSWER`; the header of a call
also names the function (`to=functions.NAME`), and a call ends the turn.
"""

import re
from typing import Final

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.reader import MarkFinder

_MESSAGE: Final = "<|message|>"
_ENDS: Final = ("<|end|>", "<|start|>", "<|channel|>")
"""Marks that end a message, or begin the next one if the end mark is missing."""
_ENDINGS: Final = MarkFinder(*_ENDS)
_END: Final = re.compile("|".join(map(re.escape, _ENDS)))
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_CALLED: Final = re.compile(r"to=functions\.([\w.\-]{1,128})")
_HEADER_STARTS: Final = ("<|", " to=")
_HEADER_MAX: Final = 512


class ChannelStream:
    """Reads the text of a turn as it comes. A turn without headers is all answer."""

    def __init__(self, *, calls: bool) -> None:
        """`calls`: whether functions were offered; if not, a call is part of the answer."""
        self._offered = calls
        self._held = ""
        self._in_header = True
        self._kind = ""
        """The kind of the open message: `thought`, `call` or `answer`; empty before the first one."""
        self._calls = 0
        self._written = False
        """Whether the open message has any text."""
        self._answered = False

    @property
    def thinking(self) -> bool:
        """Whether the model is thinking: before the answer starts, or again later."""
        return self._kind in ("", "thought")

    def feed(self, text: str) -> list[Delta]:
        """Add text; returns the deltas that are certain now."""
        self._held += text
        deltas: list[Delta] = []
        while self._header(deltas) if self._in_header else self._message(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """The text has ended; returns the remaining deltas."""
        deltas: list[Delta] = []
        if self._in_header and not self._kind and not self._held.startswith("<|"):
            self._open("answer", deltas)
        if not self._in_header:
            self._say(self._held, deltas)
            self._close(deltas)
        return deltas

    def _header(self, deltas: list[Delta]) -> bool:
        """Read the header of a message; returns whether there may be more to read."""
        held = self._held
        if not self._kind and held and not held.startswith(_HEADER_STARTS):
            if not any(start.startswith(held) for start in _HEADER_STARTS):
                self._open("answer", deltas)
                return True
            return False
        header, mark, behind = held.partition(_MESSAGE)
        if not mark and len(header) <= _HEADER_MAX:
            return False
        self._held = behind
        channel, called = _CHANNEL.search(header), _CALLED.search(header)
        if called is not None and self._offered:
            self._open("call", deltas)
            deltas.append(ToolCallStart(self._calls, called[1]))
        else:
            self._open("thought" if channel is not None and channel[1] == "analysis" else "answer", deltas)
        return True

    def _message(self, deltas: list[Delta]) -> bool:
        """Read the text of a message; returns whether there may be more to read."""
        end = _END.search(self._held)
        if end is None:
            certain = len(self._held) - _ENDINGS.at_end(self._held)
            self._say(self._held[:certain], deltas)
            self._held = self._held[certain:]
            return False
        self._say(self._held[: end.start()], deltas)
        self._close(deltas)
        self._held, self._in_header = self._held[end.end() if end[0] == _ENDS[0] else end.start() :], True
        return True

    def _open(self, kind: str, deltas: list[Delta]) -> None:
        self._kind, self._in_header, self._written = kind, False, False
        if kind == "answer" and self._answered:
            deltas.append(ContentDelta("\n\n"))

    def _say(self, text: str, deltas: list[Delta]) -> None:
        if not text:
            return
        self._written = True
        match self._kind:
            case "thought":
                deltas.append(ThoughtDelta(text))
            case "call":
                deltas.append(ToolCallArguments(self._calls, text))
            case _:
                self._answered = True
                deltas.append(ContentDelta(text))

    def _close(self, deltas: list[Delta]) -> None:
        if self._kind == "call":
            if not self._written:
                deltas.append(ToolCallArguments(self._calls, "{}"))
            self._calls += 1
