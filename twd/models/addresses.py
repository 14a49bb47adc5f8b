"""Which addresses a hub may send us to, and to which of them our token goes. Plain functions over URLs."""

import ipaddress
from urllib.parse import urljoin, urlsplit

from twd.net.addresses import is_loopback
from twd.net.url_guard import refusal


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: what must be equal for two addresses to be of one server."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def may_have_token(url: str, endpoint: str) -> bool:
    """Return whether our token may go to this address: to the hub alone, encrypted or on this machine."""
    scheme, host, _ = origin_of(url)
    return origin_of(url) == origin_of(endpoint) and (scheme == "https" or is_loopback(host))


def next_address(url: str, location: str) -> tuple[str, str]:
    """Return the address that a redirect leads to, and why it is not followed; one of both is empty."""
    try:
        target = urljoin(url, location)
        scheme, host, _ = origin_of(target)
    except ValueError:
        return "", f"it leads to {location[:100]!r}, which is no address"
    if scheme not in ("http", "https") or not host:
        return "", f"it leads to {location[:100]!r}, which is no address of a file"
    if origin_of(url)[0] == "https" and scheme == "http":
        return "", "it leads from an encrypted address to a plain one"
    if _is_private(host) and not _is_private(origin_of(url)[1]):
        return "", f"it leads into this network ({host})"
    return target, ""


def _is_private(host: str) -> bool:
    try:
        return bool(refusal(ipaddress.ip_address(host)))
    except ValueError:
        return is_loopback(host)
