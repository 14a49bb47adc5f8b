"""Which URLs and addresses may be opened: protects against requests to private addresses (SSRF)."""

import ipaddress
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from twd.wire.failures import FailureCode, TwdError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV4_REFUSED: Final = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "cloud metadata",
    "169.254.0.0/16": "link-local or cloud metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmark",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_IPV6_REFUSED: Final = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "::ffff:0:0/96": "IPv4-mapped",
    "::/96": "IPv4-compatible",
    "64:ff9b::/96": "NAT64",
    "64:ff9b:1::/48": "NAT64",
    "100::/64": "discard",
    "2001::/32": "Teredo",
    "2001:2::/48": "benchmark",
    "2001::/23": "reserved",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
_IPV6_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")
_NETWORKS_4: Final = [(ipaddress.IPv4Network(text), why) for text, why in _IPV4_REFUSED.items()]
_NETWORKS_6: Final = [(ipaddress.IPv6Network(text), why) for text, why in _IPV6_REFUSED.items()]


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """The parts of a server's URL; `path` has no slash at its end and no `/v1`, which adapters add."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, path: str) -> str:
        """Return the URL of a path below this address."""
        return f"{self.scheme}://{self.authority}{self.path}{path}"


def parse_base(url: str) -> ServerUrl:
    """Parse the URL of a server; raises TwdError unless it is plain http or https."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad(url, str(error)) from None
    if parts.scheme not in ("http", "https"):
        raise _bad(url, "only http:// and https:// are opened")
    if parts.username is not None or parts.password is not None:
        raise _bad(f"{parts.scheme}://…@{parts.hostname}", "put the key into api_key, not into the URL")
    if not parts.hostname or parts.query or parts.fragment or any(c in url for c in "\\\r\n\t "):
        raise _bad(url, "write it as http://host:port or http://host:port/path")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return ServerUrl(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)


def check_literal(base: ServerUrl, *, allow_private: bool) -> None:
    """Raise TwdError for a forbidden address in the URL; names are checked when they are resolved."""
    try:
        address = ipaddress.ip_address(base.host)
    except ValueError:
        return
    why = "" if allow_private else refusal(address)
    if why:
        raise refused(base.host, base.host, why)


def refused(host: str, address: str, why: str) -> TwdError:
    """Return the error for an address that must not be opened."""
    where = host if host == address else f"{host} ({address})"
    text = f"{where} is a {why} address, and edge.allow_private_upstream is false"
    return TwdError(FailureCode.FORBIDDEN, text, "url")


@cache
def refusal(address: Address) -> str:
    """Return the kind of an address that is not public; empty if it may be opened."""
    if isinstance(address, ipaddress.IPv4Address):
        return next((why for network, why in _NETWORKS_4 if address in network), "")
    why = next((why for network, why in _NETWORKS_6 if address in network), "")
    return why or ("" if address in _IPV6_GLOBAL and address.scope_id is None else "reserved")


def _bad(url: str, why: str) -> TwdError:
    return TwdError(FailureCode.BAD_REQUEST, f"{url[:200]!r} is no address of a server: {why}", "url")
