"""Splits and checks the URLs of a broker, and shows them without secrets."""

from typing import Final
from urllib.parse import urlsplit

SCHEMES: Final = ("nats", "tls")


def split_urls(text: str) -> list[str]:
    """Return all URLs of a comma-separated list, each with its scheme."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    return [part if "://" in part else f"nats://{part}" for part in given]


def is_usable(url: str) -> bool:
    """Return whether this can be the URL of a broker."""
    try:
        parts = urlsplit(url)
        return parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def all_usable(text: str) -> bool:
    """Return whether all URLs of a comma-separated list are usable."""
    return all(is_usable(url) for url in split_urls(text))


def near_host(host: str) -> str:
    """Return the host at which this machine itself reaches a server that listens at `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host)


def shown_url(url: str) -> str:
    """Return scheme, host and port only; never fails."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0]}"
