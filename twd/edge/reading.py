"""Splits the text of a model, as it comes, into thoughts, tool calls and the answer."""

from collections.abc import Callable
from typing import Protocol

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ThoughtDelta, ToolCallArguments
from twd.chat.tool_calls.reader import MarkFinder
from twd.wire.job import Thoughts


class AnswerParser(Protocol):
    """Splits the text of an answer into deltas."""

    def feed(self, text: str) -> list[Delta]:
        """Add text; returns the deltas that are certain now."""

    def finish(self) -> list[Delta]:
        """The text has ended; returns the remaining deltas."""


def in_one(deltas: list[Delta]) -> list[Delta]:
    """The same deltas, with neighbours of the same kind joined."""
    found: list[Delta] = []
    for delta in deltas:
        match (found[-1] if found else None), delta:
            case (ContentDelta(before), ContentDelta(text)):
                found[-1] = ContentDelta(before + text)
            case (ThoughtDelta(before), ThoughtDelta(text)):
                found[-1] = ThoughtDelta(before + text)
            case (ToolCallArguments(index, before), ToolCallArguments(other, text)) if index == other:
                found[-1] = ToolCallArguments(index, before + text)
            case _:
                found.append(delta)
    return found


class PlainAnswerParser:
    """For requests without tools: everything is text."""

    def feed(self, text: str) -> list[Delta]:
        """The text unchanged."""
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[Delta]:
        """Empty, because no text is held back."""
        return []


class ThoughtStream:
    """Reads an answer as it comes. Thoughts may stand once, at its beginning; `reader` reads what follows them.

    White space around thoughts is removed. An answer without thoughts is passed on unchanged.
    """

    def __init__(self, marks: Thoughts, reader: AnswerParser) -> None:
        self._marks = marks
        self._endings = MarkFinder(marks.ends)
        self._reader = reader
        self._held = ""
        self._read: Callable[[], list[Delta]] | None = self._thought if marks.open else self._start
        """The method that reads the held text next; None: everything goes to the reader."""
        self._said = False

    @property
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return self._read == self._thought

    def feed(self, text: str) -> list[Delta]:
        """Add text; returns the deltas that are certain now."""
        if self._read is None:
            return self._reader.feed(text)
        self._held += text
        return self._read()

    def finish(self) -> list[Delta]:
        """The text has ended; returns the remaining deltas."""
        held, self._held = self._held, ""
        if self.thinking:
            return [*self._told(held.rstrip()), *self._reader.finish()]
        return [*(self._reader.feed(held) if held and self._read == self._start else ()), *self._reader.finish()]

    def _start(self) -> list[Delta]:
        """Find out whether the text begins with a thought or with the answer."""
        start = self._held.lstrip()
        if self._marks.begins.startswith(start):
            if start != self._marks.begins:
                return []
        elif not start.startswith(self._marks.begins):
            return self._pass_on()
        self._held, self._read = start.removeprefix(self._marks.begins), self._thought
        return self._thought()

    def _thought(self) -> list[Delta]:
        thought, mark, behind = self._held.partition(self._marks.ends)
        if mark:
            self._held, self._read = behind, self._behind
            return [*self._told(thought.rstrip()), *self._behind()]
        told = thought[: len(thought) - self._endings.at_end(thought)].rstrip()
        self._held = thought[len(told) :]
        return self._told(told)

    def _told(self, text: str) -> list[Delta]:
        text = text if self._said else text.lstrip()
        self._said = self._said or bool(text)
        return [ThoughtDelta(text)] if text else []

    def _behind(self) -> list[Delta]:
        """After a thought: skip white space, then pass the answer on."""
        self._held = self._held.lstrip()
        return self._pass_on() if self._held else []

    def _pass_on(self) -> list[Delta]:
        held, self._held, self._read = self._held, "", None
        return self._reader.feed(held)
