"""The URLs of a broker as people write them: told apart, looked over, and shown without what is secret in them."""

from typing import Final
from urllib.parse import urlsplit

SCHEMES: Final = ("nats", "tls")


def split_urls(text: str) -> list[str]:
    """Every URL of a list with commas, with its scheme."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    return [part if "://" in part else f"nats://{part}" for part in given]


def is_usable(url: str) -> bool:
    """Whether a broker can be reached under such a URL at all."""
    try:
        parts = urlsplit(url)
        return parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def all_usable(text: str) -> bool:
    """The same for each URL of a list with commas."""
    return all(is_usable(url) for url in split_urls(text))


def near_host(host: str) -> str:
    """Where this very machine reaches what listens at `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host)


def shown_url(url: str) -> str:
    """Scheme, host and port alone; whatever it is, nobody trips over it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0]}"
