"""Events to bytes and back. Bad bytes become a value, never a crash."""

from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import msgspec

from twd.wire.base import Event
from twd.wire.reading import NONSENSE
from twd.wire.routes import ROUTE_OF_TAG

E = TypeVar("E", bound=Event)
T = TypeVar("T")

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that are not an event, and why."""

    reason: str
    unknown: bool = False


class _Peek(msgspec.Struct, frozen=True):
    type: str = ""


_peek = msgspec.json.Decoder(_Peek)


@cache
def _decoder(event_type: type[E]) -> msgspec.json.Decoder[E]:
    return msgspec.json.Decoder(event_type)


def encode(event: Event) -> bytes:
    """One event as JSON."""
    return _encoder.encode(event)


def decode_as(event_type: type[E], data: bytes) -> E | Rejected:
    """Read bytes that should hold one known event type."""
    return _read(_decoder(event_type), data)


def decode(data: bytes) -> Event | Rejected:
    """Read bytes that may hold any event; a type of a later version is `unknown`, not an error."""
    peek = _read(_peek, data)
    if isinstance(peek, Rejected):
        return peek
    route = ROUTE_OF_TAG.get(peek.type)
    if route is None:
        return Rejected(f"unknown type {peek.type[:80]!r}", unknown=True)
    return decode_as(route.event, data)


def _read(decoder: msgspec.json.Decoder[T], data: bytes) -> T | Rejected:
    if len(data) > MAX_MESSAGE_BYTES:
        return Rejected(f"{len(data)} bytes; at most {MAX_MESSAGE_BYTES} are read")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        return Rejected(str(error))
    except NONSENSE as error:
        return Rejected(f"not JSON: {error}")
