"""What a model's answer is made of, as it is told piece by piece: text, calls, thoughts."""

import msgspec


class ContentDelta(msgspec.Struct, frozen=True):
    """Text that is no call."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    """A call begins; calls count from 0."""

    index: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next part of a call's arguments; together they are JSON."""

    index: int
    text: str


class ThoughtDelta(msgspec.Struct, frozen=True):
    """What the model thinks before it answers."""

    text: str


Delta = ContentDelta | ToolCallStart | ToolCallArguments | ThoughtDelta
