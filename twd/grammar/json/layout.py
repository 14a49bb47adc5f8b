"""How the JSON of a text is laid out so far, and so, most likely, from here on: one line, or indented, and how far."""

from dataclasses import dataclass, field
from typing import Final, Self

BLANKS: Final = b" \t\n\r"
_OPENING, _CLOSING, _BETWEEN = b"{[", b"}]", b",:"
_QUOTE, _BACKSLASH, _COLON, _COMMA = b'"\\:,'
_BRACES = (b"{"[0], b"["[0])
_FIRST, _LAST = 1, 2
"""The places before and behind all JSON."""


@dataclass(slots=True)
class WhitespaceHabits:
    """What blanks stood where, in the texts that were seen."""

    blanks: dict[int, bytes] = field(default_factory=dict)
    """Behind an opening bracket, a comma or a colon, or else before a closing bracket; before and behind all of it."""
    unit: bytes = b"  "
    """What a line is indented by for each bracket that is open."""

    def between(self, before: int, following: int, depth: int) -> bytes:
        """The blanks that are usual there, where so many brackets are open."""
        known = self.blanks.get(_place(before, following))
        if known is None:
            known = self._untold(before, following)
        return self.line(depth) if known.startswith(b"\n") else known

    def line(self, depth: int) -> bytes:
        """A new line, indented for so many brackets."""
        return b"\n" + self.unit * depth

    def _untold(self, before: int, following: int) -> bytes:
        if before == _COLON:
            return b" "
        broken = any(self.blanks.get(brace, b"").startswith(b"\n") for brace in _BRACES)
        if broken and (before in _OPENING or before == _COMMA or following in _CLOSING):
            return b"\n"
        return b" " if before == _COMMA else b""

    def learn(self, before: int, following: int, depth: int, blanks: bytes) -> None:
        """These blanks stood there."""
        place = _place(before, following)
        if not place:
            return
        if self.blanks.get(place, blanks)[:1] != blanks[:1]:  # another manner, and so elsewhere, too
            self.blanks.clear()
        self.blanks[place] = blanks
        indent = blanks[1:]
        if blanks.startswith(b"\n") and depth and indent and len(indent) % depth == 0:
            self.unit = indent[: len(indent) // depth]


@dataclass(slots=True)
class JsonLayout:
    """Where a text stands: inside a string, so many brackets deep, behind these blanks."""

    habits: WhitespaceHabits = field(default_factory=WhitespaceHabits)
    depth: int = 0
    before: int = 0
    """The last byte outside of strings that is no blank."""
    blanks: bytes = b""
    in_string: bool = False
    _escaped: bool = False

    def fork(self) -> Self:
        """To look ahead with; what is seen there becomes no habit."""
        return type(self)(
            WhitespaceHabits(dict(self.habits.blanks), self.habits.unit),
            self.depth,
            self.before,
            self.blanks,
            self.in_string,
            self._escaped,
        )

    def extend(self, data: bytes) -> None:
        """Add text."""
        for byte in data:
            if self.in_string:
                self._inside(byte)
            elif byte in BLANKS:
                self.blanks += bytes((byte,))
            else:
                self._outside(byte)

    def _inside(self, byte: int) -> None:
        if self._escaped:
            self._escaped = False
        elif byte == _BACKSLASH:
            self._escaped = True
        elif byte == _QUOTE:
            self.in_string = False

    def _outside(self, byte: int) -> None:
        closes = byte in _CLOSING
        self.habits.learn(self.before, byte, max(0, self.depth - closes), self.blanks)
        self.depth = max(0, self.depth + (byte in _OPENING) - closes)
        self.before, self.blanks = byte, b""
        self.in_string = byte == _QUOTE

    def coming(self, following: int) -> bytes | None:
        """The blanks that will still come before this byte; None where others than usual stand here already."""
        depth = max(0, self.depth - (following in _CLOSING))
        usual = self.habits.between(self.before, following, depth)
        if self.blanks.startswith(b"\n") and not usual.startswith(b"\n"):
            usual = self.habits.line(depth)
        if usual.startswith(self.blanks):
            return usual[len(self.blanks) :]
        return b"" if _place(self.before, following) in (_FIRST, _LAST) else None


def _place(before: int, following: int) -> int:
    if before in _OPENING or before in _BETWEEN:
        return before
    if following in _CLOSING:
        return following
    if not before:
        return _FIRST
    return _LAST if before in _CLOSING and following not in _BETWEEN else 0
