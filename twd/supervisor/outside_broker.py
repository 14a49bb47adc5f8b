"""Connects to a broker that somebody else runs; it may start later than this machine."""

from collections.abc import Awaitable, Callable

from twd.bus.nats.bus import NatsBus
from twd.bus.nats.link import LinkError


async def outside_broker(connect: Callable[[], Awaitable[NatsBus]], tell: Callable[[str], None]) -> NatsBus:
    """Return a connection, however long it takes; report each failed attempt, and raise an error that is final."""
    while True:
        try:
            return await connect()
        except LinkError as error:
            if error.final:
                raise
            tell(f"waiting for the broker: {error}")
