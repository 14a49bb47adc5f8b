"""The parts of a model's answer, as they are streamed: text, calls, thoughts."""

import msgspec


class ContentDelta(msgspec.Struct, frozen=True):
    """Text that is not part of a call."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    """The start of a call; calls are numbered from 0."""

    index: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next part of a call's arguments; all parts together are JSON."""

    index: int
    text: str


class ThoughtDelta(msgspec.Struct, frozen=True):
    """A part of the thoughts before the answer."""

    text: str


Delta = ContentDelta | ToolCallStart | ToolCallArguments | ThoughtDelta
