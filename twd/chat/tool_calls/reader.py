"""Reads streamed text as if it were complete: generators that pause where the next piece is needed."""

import re
from collections.abc import Callable, Generator

from twd.wire.reading import read_as

UNDECIDED_MAX = 65_536
"""Text that is not recognised as a call within so many characters is not a call."""

Steps = Generator[None, None, None]
Finding = Generator[None, None, str]
Deciding = Generator[None, None, bool]

_BRACKET = re.compile(r'["{}\[\]]')
_STRING_END = re.compile(r'["\\]')
_SCALAR_END = re.compile(r"[\s,;}\]]")


class MarkFinder:
    """Finds whether a text that is still being written ends with the beginning of a mark."""

    def __init__(self, *marks: str) -> None:
        self._starts = {mark[:length] for mark in marks for length in range(1, len(mark))}
        self._longest = max(map(len, self._starts), default=0)

    def at_end(self, text: str) -> int:
        """Return the number of characters at its end that may be one."""
        longest = min(self._longest, len(text))
        return next((length for length in range(longest, 0, -1) if text[-length:] in self._starts), 0)


class NotACall(Exception):
    """Raised when the text is not a call."""


class TextEnded(Exception):
    """Raised when more text is needed but the text has ended."""


class TextReader:
    """A text in the making. `at` is how far it is read; what stands before `mark` is dealt with.

    Text may be dropped only by `forget`, so positions that a step remembers stay good while it does not call that.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.mark = 0
        self.ended = False
        self.committed = False

    def forget(self) -> None:
        """Drop the text before `mark`."""
        self.text = self.text[self.mark :]
        self.at -= self.mark
        self.mark = 0

    def more(self) -> Steps:
        """Wait for the next piece of text."""
        if self.ended:
            raise TextEnded
        if not self.committed and len(self.text) - self.mark > UNDECIDED_MAX:
            raise NotACall
        yield

    def peek(self) -> Finding:
        """Return the next character."""
        while self.at >= len(self.text):
            yield from self.more()
        return self.text[self.at]

    def skip_space(self) -> Steps:
        """Skip white space."""
        while (yield from self.peek()).isspace():
            self.at += 1

    def take(self, literal: str) -> Deciding:
        """Skip the literal if it comes next; returns whether it did."""
        while not self.text.startswith(literal, self.at):
            here = self.text[self.at : self.at + len(literal)]
            if not literal.startswith(here):
                return False
            yield from self.more()
        self.at += len(literal)
        return True

    def require(self, literal: str) -> Steps:
        """Skip the literal, which must come next."""
        if not (yield from self.take(literal)):
            raise NotACall

    def until(self, literal: str) -> Finding:
        """Return the text up to the literal; skips both."""
        start = searched = self.at
        while (found := self.text.find(literal, searched)) < 0:
            searched = max(start, len(self.text) - len(literal))
            yield from self.more()
        self.at = found + len(literal)
        return self.text[start:found]

    def word(self, pattern: re.Pattern[str]) -> Finding:
        """Return the longest match of the pattern here; raises NotACall if there is none."""
        while True:
            found = pattern.match(self.text, self.at)
            if self.at < len(self.text) and (found is None or found.end() < len(self.text)):
                break
            yield from self.more()
        if found is None:
            raise NotACall
        self.at = found.end()
        return found[0]

    # -- JSON -----------------------------------------------------------------------------------

    def string(self) -> Finding:
        """A JSON string, decoded. One with half of a surrogate pair is none: nobody could be told it."""
        if (yield from self.peek()) != '"':
            raise NotACall
        decoded = read_as(str, (yield from self.value()))
        if decoded is None:
            raise NotACall
        return decoded

    def value(self) -> Finding:
        """A JSON value as it is written. Brackets and quotes are matched; the rest is not checked."""
        first = yield from self.peek()
        start = self.at
        if first in '"{[':
            yield from self.skip_value(_nothing)
        else:
            while (end := _SCALAR_END.search(self.text, start)) is None:
                yield from self.more()
            self.at = end.start()
        return self.text[start : self.at]

    def object_ends(self) -> Deciding:
        """Go past what ends an object, or past the comma before its next entry."""
        yield from self.skip_space()
        if (yield from self.take(",")):
            yield from self.skip_space()
        return (yield from self.take("}"))

    def skip_value(self, before_wait: Callable[[], None]) -> Steps:
        """Go past a string, list or object; `before_wait` is called when the text at hand is read."""
        depth = 0
        while True:
            found = _BRACKET.search(self.text, self.at)
            if found is None:
                yield from self._wait(before_wait)
                continue
            self.at = found.end()
            if found[0] == '"':
                yield from self._rest_of_string(before_wait)
            else:
                depth += 1 if found[0] in "{[" else -1
            if depth <= 0:
                return

    def _rest_of_string(self, before_wait: Callable[[], None]) -> Steps:
        while True:
            found = _STRING_END.search(self.text, self.at)
            if found is None:
                yield from self._wait(before_wait)
                continue
            self.at = found.end()
            if found[0] == '"':
                return
            while self.at >= len(self.text):
                yield from self._wait(before_wait)
            self.at += 1

    def _wait(self, before_wait: Callable[[], None]) -> Steps:
        self.at = len(self.text)
        before_wait()
        yield from self.more()


def _nothing() -> None:
    """Text that is waited for needs no care."""
