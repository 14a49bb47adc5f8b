"""How far other machines are: the time that a connection to their agent takes, measured now and then."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from twd.coordinator.placement import Link
from twd.kit.addresses import is_loopback
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts

EVERY_S: Final = 30.0
CONNECT_S: Final = 1.0
SAMPLES: Final = 3


@dataclass
class Links:
    """The links that are known; one that cannot be measured counts as a usual LAN."""

    known: dict[str, Link] = field(default_factory=dict)
    _asked: dict[NodeId, float] = field(default_factory=dict)

    async def measure(self, nodes: Iterable[NodeFacts], now: float) -> None:
        """Measure those whose turn it is, side by side."""
        due = [facts for facts in nodes if now - self._asked.get(facts.node, float("-inf")) >= EVERY_S]
        self._asked.update({facts.node: now for facts in due})
        await asyncio.gather(*(self._measure(facts) for facts in due))

    async def _measure(self, facts: NodeFacts) -> None:
        if facts.link_ms:
            self.known[facts.node] = Link(rtt_s=facts.link_ms / 1000)
            return
        address = urlsplit(facts.peer_url)
        if not address.hostname or not address.port or is_loopback(address.hostname):
            return
        rtt_s = await connect_time(address.hostname, address.port)
        if rtt_s is not None:
            self.known[facts.node] = Link(rtt_s=rtt_s)


async def connect_time(host: str, port: int) -> float | None:
    """The quickest of a few connections, in seconds; None where there is none."""
    times = [await _connect(host, port) for _ in range(SAMPLES)]
    return min((taken for taken in times if taken is not None), default=None)


async def _connect(host: str, port: int) -> float | None:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return None
    taken = time.perf_counter() - began
    writer.close()
    return taken
