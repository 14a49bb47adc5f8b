"""Tells calls, and what is no call, as they are read from a text in the making."""

import re
from collections.abc import Mapping
from typing import Any

from twd.chat.tool_calls.deltas import ContentDelta, Delta, ToolCallArguments, ToolCallStart
from twd.chat.tool_calls.reader import Deciding, NotACall, Steps, TextEnded, TextReader

NAME = re.compile(r"[\w.\-]{1,128}")
"""The pattern of a name that is written without quotes."""


class CallParser:
    """What is read, and what was told of it. `schemas` are the offered tools: the schema of the arguments by name."""

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self.schemas = schemas
        self.reader = TextReader()
        self.calls = 0
        self._space = ""
        self._after_call = False
        self._deltas: list[Delta] = []

    def certain(self) -> list[Delta]:
        """Return the parts that became certain since the last call."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def last(self) -> list[Delta]:
        """The same, where nothing follows any more: white space at the end is text, too."""
        if self._space:
            self._deltas.append(ContentDelta(self._space))
        return self.certain()

    def say(self, end: int) -> None:
        """Everything from the mark to here is content. White space waits: it is layout if a call follows."""
        text = self._space + self.reader.text[self.reader.mark : end]
        if self._after_call:
            text = text.lstrip()
        self.reader.mark = end
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._deltas.append(ContentDelta(shown))
            self._after_call = False

    def drop(self) -> None:
        """Drop the text since the mark as layout."""
        self.reader.mark = self.reader.at

    def begin(self, name: str) -> None:
        """Begin a call."""
        self._deltas.append(ToolCallStart(self.calls, name))
        self.calls += 1
        self._space = ""
        self.reader.committed = True
        self.reader.mark = self.reader.at

    def add(self, arguments: str) -> None:
        """Add arguments to the call."""
        if arguments:
            self._deltas.append(ToolCallArguments(self.calls - 1, arguments))

    def close(self) -> None:
        """End the call."""
        self.reader.committed = False
        self.reader.mark = self.reader.at
        self._after_call = True

    def whole(self, name: str, arguments: str) -> None:
        """Add a complete call."""
        self.begin(name)
        self.add(arguments)
        self.close()

    def require_offered(self, name: str) -> None:
        """Where other text may look like a call, only one of an offered tool is any."""
        if name not in self.schemas:
            raise NotACall

    # -- pieces of a call -------------------------------------------------------------------------

    def streamed(self, name: str) -> Steps:
        """A call whose arguments come next, as a JSON object."""
        if (yield from self.reader.peek()) != "{":
            raise NotACall
        yield from self.stream_arguments(name)
        self.close()

    def stream_arguments(self, name: str) -> Steps:
        """Tell the call and pass its arguments on as they come."""
        self.begin(name)
        yield from self.reader.skip_value(self._pass_on)
        self._pass_on()

    def _pass_on(self) -> None:
        reader = self.reader
        self.add(reader.text[reader.mark : reader.at])
        reader.mark = reader.at
        reader.forget()

    def closer(self, *closers: str) -> Steps:
        """Go past what closes calls, one after the other, as far as they come; the text may also end within one."""
        reader = self.reader
        for closer in filter(None, closers):
            try:
                yield from reader.skip_space()
                if (yield from reader.take(closer)):
                    reader.mark = reader.at
            except TextEnded:
                reader.mark = len(reader.text)
                raise
            reader.at = reader.mark

    def follows(self, literal: str) -> Deciding:
        """Go past the literal and the white space before it, if that is what comes."""
        reader = self.reader
        try:
            yield from reader.skip_space()
            if (yield from reader.take(literal)):
                return True
        except TextEnded:
            pass
        reader.at = reader.mark
        return False
