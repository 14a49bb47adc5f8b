"""What an installation sends over a network without encryption; shown at start and by `twd doctor`."""

from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from twd.bus.urls import split_urls
from twd.kit.connect import address_of
from twd.net.addresses import is_loopback
from twd.settings.model import Settings

_EDGE_MEND: Final = "set edge.tls.cert and edge.tls.key, or put a TLS proxy before it"


class InClear(NamedTuple):
    """One unencrypted connection that others can read: its name, what they can read, and how to fix it."""

    name: str
    text: str
    mend: str


def ways_in_clear(settings: Settings) -> Iterator[InClear]:
    """Yield every connection beyond loopback that the settings leave without TLS."""
    bus, edge, agent = settings.bus, settings.edge, settings.agent
    if not is_loopback(edge.host) and not edge.tls.cert:
        text = f"edge.host is {edge.host} without TLS: keys and texts travel in the clear"
        yield InClear("door", text, _EDGE_MEND)
    if not is_loopback(agent.host) and agent.allow_plaintext:
        text = f"agent.host is {agent.host} with agent.allow_plaintext: agent.token travels in the clear"
        yield InClear("agent", text, "leave agent.allow_plaintext out")
    far = [url for url in split_urls(bus.url) if not is_loopback(urlsplit(url).hostname or "")]
    if far and not address_of(bus).wants_tls:
        text = f"bus.url is {address_of(bus).shown} without TLS: keys and all texts travel in the clear"
        yield InClear(
            "bus", text, "give the broker a certificate (deploy/nats), or join it with `twd token add` and `twd join`"
        )
