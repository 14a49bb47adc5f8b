"""How far other machines are: the time that a connection to their agent takes, measured now and then; and how much the
way carries, as those told who used it."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from twd.coordinator.core.placement import ASSUMED, MachineLink, pair
from twd.net.addresses import is_loopback
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts
from twd.wire.placement import Way

EVERY_S: Final = 30.0
CONNECT_S: Final = 1.0
SAMPLES: Final = 3


@dataclass
class LinkTable:
    """The links that are known; one that cannot be measured counts as a usual LAN.

    Those to the home machine stand under the other's name, those between two others under both.
    """

    known: dict[str, MachineLink] = field(default_factory=dict)
    _asked: dict[NodeId, float] = field(default_factory=dict)

    def learn(self, ways: Iterable[Way]) -> None:
        """What a speculator measured on its ways to other machines; the round trip counts where we have none."""
        for way in ways:
            link = self.known.get(way.node, MachineLink(way.rtt_ms / 1000) if way.rtt_ms else MachineLink())
            if way.bandwidth:
                self.known[way.node] = replace(link, bytes_s=float(way.bandwidth), measured=True)

    def learn_between(self, ways: Iterable[tuple[NodeId, Way]]) -> None:
        """What stages measured on their ways to other machines."""
        for node, way in ways:
            bandwidth = float(way.bandwidth) or ASSUMED.bytes_s
            self.known[pair(node, way.node)] = MachineLink(way.rtt_ms / 1000, bandwidth, measured=way.bandwidth > 0)

    def _reach(self, node: NodeId, rtt_s: float) -> None:
        self.known[node] = replace(self.known.get(node, MachineLink()), rtt_s=rtt_s)

    async def measure(self, nodes: Iterable[NodeFacts], now: float) -> None:
        """Measure those whose turn it is, side by side."""
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
    """The quickest of a few connections, in seconds; None where there is none."""
    best: float | None = None
    for _ in range(SAMPLES):
        taken = await _connect(host, port)
        if taken is None:
            break  # who does not answer is not waited for again
        best = taken if best is None else min(best, taken)
    return best


async def _connect(host: str, port: int) -> float | None:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError, UnicodeError):  # the last of a name that nobody can have
        return None
    taken = time.perf_counter() - began
    writer.close()
    return taken
