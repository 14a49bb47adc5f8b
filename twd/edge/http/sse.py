"""The format of server-sent events."""

from collections.abc import Mapping
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def event(payload: msgspec.Struct | Mapping[str, Any], name: str = "") -> bytes:
    """One event. Its JSON has no line breaks, so one data line is enough; `name` must be one plain word."""
    data = _encoder.encode(payload)
    if name:
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"
