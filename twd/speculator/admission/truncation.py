"""What may be left out of a conversation that does not fit the context: whole exchanges, the oldest first."""

from collections.abc import Sequence

from twd.wire.job import ChatMessage

Turns = list[int]
"""Indexes of messages that belong together: a template refuses answers without their question."""


def left_out_first(messages: Sequence[ChatMessage]) -> list[Turns]:
    """Returns what can be left out, in this order. Instructions, the user's last message and what the model answers to
    always stay.

    Exchanges with the user go first; then the early ones of a long run of calls after the user's last message.
    """
    said = [place for place, message in enumerate(messages) if message.role not in ("system", "developer")]
    last = max((place for place in said if messages[place].role == "user"), default=-1)
    exchanges = _runs(messages, [place for place in said if place < last], "user")
    calls = _runs(messages, [place for place in said if place > last], "assistant")
    return exchanges + calls[:-1]


def _runs(messages: Sequence[ChatMessage], places: Turns, opener: str) -> list[Turns]:
    runs: list[Turns] = []
    for place in places:
        if messages[place].role == opener or not runs:
            runs.append([])
        runs[-1].append(place)
    return runs


def without(messages: Sequence[ChatMessage], left_out: Sequence[Turns]) -> list[ChatMessage]:
    """Returns the messages that stay."""
    gone = {place for turns in left_out for place in turns}
    return [message for place, message in enumerate(messages) if place not in gone]
