"""Events as watchers may see them: without prompts, answers and tokens."""

from typing import Any

import msgspec

from twd.wire.reading import read_as

COUNTED = frozenset({"tokens", "resume", "logprobs", "confidence"})
"""Lists of which only the length is shown."""
HIDDEN = frozenset({"prompt", "prediction", "text", "tail", "stop", "grammar", "last_words"})
"""Fields of which only their presence is shown."""


def redacted(data: bytes | msgspec.Raw, *, keep_words: bool = False) -> dict[str, Any]:
    """An event as a plain dictionary, with prompts, answers and tokens only as lengths. Empty if it is no event."""
    event = read_as(dict[str, Any], bytes(data)) or {}
    return event if keep_words else {name: _shown(name, value) for name, value in event.items()}


def _shown(name: str, value: Any) -> Any:
    hidden = _hidden(name, value)
    if hidden is value and isinstance(value, dict):  # texts are at most one level deep in an event
        return {inner: _hidden(inner, part) for inner, part in value.items()}
    return hidden


def _hidden(name: str, value: Any) -> Any:
    if name in COUNTED and isinstance(value, list):
        return len(value)
    if name in HIDDEN:
        return {"characters": len(value)} if isinstance(value, str) else {"hidden": True}
    return value
