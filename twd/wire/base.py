"""What every message shares: typed ids and the stamp that makes it traceable."""

from typing import Annotated, Final, NewType

import msgspec
from msgspec import Meta

EventId = NewType("EventId", str)
JobId = NewType("JobId", str)
SessionId = NewType("SessionId", str)
ModelId = NewType("ModelId", str)
NodeId = NewType("NodeId", str)
InstanceId = NewType("InstanceId", str)
"""One running copy of a service: `<service>.<node>.<random>`."""

Token = Annotated[int, Meta(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Meta(max_length=262_144)]
INT64_MAX: Final = 2**63 - 1
"""Longer whole numbers can be read, but neither computed with nor shown: a float holds none of hundreds of digits."""
Count = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Position = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Attempt = Annotated[int, Meta(ge=1, le=INT64_MAX)]
Figure = Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]
PrefixHash = Annotated[int, Meta(ge=0, lt=2**53)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of an event; it never travels alone."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Something that happened. The publisher stamps the four fields below."""

    id: EventId = EventId("")
    cause: EventId = EventId("")
    source: InstanceId = InstanceId("")
    at_ms: Count = 0
