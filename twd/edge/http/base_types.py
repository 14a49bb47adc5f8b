"""The kinds of value that requests are made of; their limits are those that the errors name."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
TokenLimit = Annotated[int, Meta(ge=1, le=1_000_000)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
ShortText = Annotated[str, Meta(max_length=1024)]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]
StopList = Annotated[list[StopString], Meta(max_length=4)]
JsonObject = dict[str, Any]
Count = Annotated[int, Meta(ge=0)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Window = Annotated[int, Meta(ge=0, le=96)]
Deadline = Annotated[float, Meta(ge=0.05, le=86_400)]
"""Seconds; with less than this nothing could be answered."""


class RequestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a request: what it does not name is refused."""


class TwdOptions(RequestBody, frozen=True):
    """twd's own wishes; each can also come as a header (`x-twd-mode`), and the body wins."""

    speculation: Literal["auto", "off"] | Window | None = None
    mode: Literal["speculate", "direct", "consensus", "gate"] | None = None
    exact: bool | None = None
    deadline_s: Deadline | None = None
    marks: bool | None = None
    """Say in each chunk of a chat stream what speculation brought to it."""
