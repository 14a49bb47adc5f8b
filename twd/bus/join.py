"""Join strings: a broker's address, token and certificate fingerprint in one line, for another machine."""

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


class Join(NamedTuple):
    """The content of a join string."""

    url: str
    token: str
    fingerprint: str
    """The SHA-256 of the broker's certificate; empty without TLS."""

    def as_text(self, host: str) -> str:
        """Return the join string for other machines, which reach this broker at `host`."""
        host = f"[{host}]" if ":" in host else host
        start = f"{quote(self.token, safe='')}@{host}:{urlsplit(self.url).port}"
        return f"tls://{start}?sha256={self.fingerprint}" if self.fingerprint else f"nats://{start}"


def read_join(text: str) -> Join:
    """Parse a join string. Raises ValueError, whose message contains no secret."""
    try:
        parts = urlsplit(text.strip())
        host, port, token = parts.hostname, parts.port, parts.username
        more = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("it is no URL") from None
    if parts.scheme not in ("tls", "nats") or not (host and port and token) or parts.path.strip("/"):
        raise ValueError("it is not like tls://TOKEN@HOST:PORT?sha256=FINGERPRINT")
    if unknown := more.keys() - {"sha256"}:
        raise ValueError(f"this version of twd does not know {', '.join(sorted(unknown))[:100]!r} in it")
    pin = more.get("sha256", [""])[-1]
    if bool(pin) != (parts.scheme == "tls") or (pin and not _FINGERPRINT.fullmatch(pin)):
        raise ValueError("its fingerprint is not whole: sha256= and 64 hex digits")
    host = f"[{host}]" if ":" in host else host
    return Join(f"{parts.scheme}://{host}:{port}", unquote(token), pin)


def may_join(text: str) -> bool:
    """Return whether the text is a join string or empty."""
    try:
        return not text or bool(read_join(text))
    except ValueError:
        return False
