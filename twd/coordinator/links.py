"""Speed of the links between machines: the round-trip time, measured now and then by connecting to each agent, and the
bandwidth, as reported by the processes that used the link."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from twd.coordinator.core.placement.values import ASSUMED, MachineLink, pair
from twd.net.addresses import is_loopback
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts
from twd.wire.placement import Way

EVERY_S: Final = 30.0
CONNECT_S: Final = 1.0
SAMPLES: Final = 3


@dataclass
class LinkTable:
    """The known links; a link that cannot be measured counts as a usual LAN.

    The key of a link to the home machine is the other machine's name; that of a link between two others, both names.
    """

    known: dict[str, MachineLink] = field(default_factory=dict)
    _asked: dict[NodeId, float] = field(default_factory=dict)

    def learn(self, ways: Iterable[Way]) -> None:
        """Take the bandwidths that a speculator measured; its round-trip times count only for links that have none
        yet."""
        for way in ways:
            link = self.known.get(way.node, MachineLink(way.rtt_ms / 1000) if way.rtt_ms else MachineLink())
            if way.bandwidth:
                self.known[way.node] = replace(link, bytes_s=float(way.bandwidth), measured=True)

    def learn_between(self, ways: Iterable[tuple[NodeId, Way]]) -> None:
        """Take what stages measured on their links to other machines."""
        for node, way in ways:
            bandwidth = float(way.bandwidth) or ASSUMED.bytes_s
            self.known[pair(node, way.node)] = MachineLink(way.rtt_ms / 1000, bandwidth, measured=way.bandwidth > 0)

    def _reach(self, node: NodeId, rtt_s: float) -> None:
        self.known[node] = replace(self.known.get(node, MachineLink()), rtt_s=rtt_s)

    async def measure(self, nodes: Iterable[NodeFacts], now: float) -> None:
        """Measure the links that are due, all at the same time."""
        due = [facts for facts in nodes if now - self._asked.get(facts.node, float("-inf")) >= EVERY_S]
        self._asked.update({facts.node: now for facts in due})
        await asyncio.gather(*(self._measure(facts) for facts in due))

    async def _measure(self, facts: NodeFacts) -> None:
        if facts.link_ms:
            self._reach(facts.node, facts.link_ms / 1000)
            return
        address = urlsplit(facts.peer_url)
        if not address.hostname or not address.port or is_loopback(address.hostname):
            return
        rtt_s = await connect_time(address.hostname, address.port)
        if rtt_s is not None:
            self._reach(facts.node, rtt_s)


async def connect_time(host: str, port: int) -> float | None:
    """Return the shortest of a few connection times, in seconds; None where nobody answers."""
    best: float | None = None
    for _ in range(SAMPLES):
        taken = await _connect(host, port)
        if taken is None:
            break  # do not wait again for a host that does not answer
        best = taken if best is None else min(best, taken)
    return best


async def _connect(host: str, port: int) -> float | None:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError, UnicodeError):  # UnicodeError: not a possible host name
        return None
    taken = time.perf_counter() - began
    writer.close()
    return taken
