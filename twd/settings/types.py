"""The kinds of value that settings are made of; each carries the words that errors and the reference use for it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from twd.bus.urls import all_usable

INT_MAX = 2**53
IPV6 = r"\[?[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Za-z:.%]*\]?"


class SettingSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A group of settings; its docstring opens its part of the reference."""


def about(description: str, **extra: Any) -> Meta:
    """The one line that explains a setting."""
    return Meta(description=description, extra=extra or None)


NAME = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?"
"""Of a host: looking up any other one is no mere failure."""
Host = Annotated[str, Meta(pattern=rf"^({NAME}|{IPV6})\Z", title="a host name or IP address without a port")]
MaybeHost = Annotated[
    str, Meta(pattern=rf"^({NAME}|{IPV6})?\Z", title="a host name or IP address without a port, or nothing")
]
Port = Annotated[int, Meta(ge=1, le=65535)]
FreePort = Annotated[int, Meta(ge=0, le=65535)]
HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^\s/]\S*\Z", title="a URL that starts with http:// or https://")]
MaybeUrl = Annotated[str, Meta(pattern=r"^(https?://[^\s/]\S*)?\Z", title="a URL that starts with http:// or https://")]
BusUrl = Annotated[
    str,
    Meta(
        pattern=r"^(((nats|tls)://)?[^\s,/]+(,|\Z))*\Z",
        title="nats://HOST:PORT or tls://HOST:PORT, with commas between them",
        extra={"check": all_usable},
    ),
]
Fingerprint = Annotated[
    str, Meta(pattern=r"^([0-9a-f]{64})?\Z", title="the SHA-256 of a certificate: 64 small hex digits")
]
Origin = Annotated[
    str, Meta(pattern=r"^(\*|https?://[^\s/]+)\Z", title='an origin such as https://chat.example, or "*"')
]
UrlPath = Annotated[str, Meta(pattern=r"^(/\S*)?\Z", title="a path that starts with /")]
Cidr = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f.:]+(/\d{1,3})?\Z", title="an address or a range such as 192.168.1.0/24")
]
FilePath = Annotated[str, Meta(title="a path", extra={"path": True})]
RequiredPath = Annotated[str, Meta(min_length=1, title="a path", extra={"path": True})]
Secret = Annotated[str, Meta(extra={"secret": True})]
ModelName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z",
        title="a name of letters, digits and . _ - : / @ + that starts with a letter or digit",
    ),
]
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", title="the name of an environment variable")]

Count = Annotated[int, Meta(ge=0, le=INT_MAX)]
Positive = Annotated[int, Meta(ge=1, le=INT_MAX)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Gigabytes = Annotated[float, Meta(gt=0, le=1_000_000)]
Auto = Literal["auto"]
Switch = Literal["auto", "on", "off"]

Mode = Literal["speculate", "direct", "combined", "consensus", "gate", "combined+consensus", "combined+gate"]
Compute = Literal["auto", "cuda", "hip", "metal", "vulkan", "cpu"]
ServerKind = Literal["auto", "llamacpp", "ollama", "openai", "vllm", "sglang"]
CacheType = Literal["auto", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
