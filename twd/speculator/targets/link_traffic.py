"""What the links to RPC workers carried, as this machine's kernel counts it."""

from typing import Final

from twd.net.tcp_info import LinkCount, count_links
from twd.speculator.targets.pool_core import PoolAssembly
from twd.wire.base import NodeId
from twd.wire.placement import PlacementDecided, Way
from twd.wire.ring import HopFacts

ENOUGH_BYTES: Final = 4 * 1024**2
"""A link must have carried this many bytes before its bandwidth is reported."""


class LinkTraffic:
    """What the links carried since the model was loaded, for each accepted token."""

    def __init__(self) -> None:
        self.tokens = 0
        self._before: dict[tuple[str, int], LinkCount] = {}

    def begin(self, over: PoolAssembly) -> None:
        """Start to count; the bytes of loading are left out."""
        self.tokens, self._before = 0, count_links({member.address for member in over.processes.values()})

    def told(self, over: PoolAssembly, placement: PlacementDecided) -> tuple[list[HopFacts], list[Way]]:
        """Returns each machine's link: its round trip and the bytes since the model was loaded; and, as far as the
        kernel counts, how far each machine is."""
        addresses = {member.address: member.slice.node for member in over.processes.values()}
        counts = count_links(set(addresses))
        rtts = placement.links
        links = [self._link(node, counts.get(at), at, rtts.get(node, 0.0)) for at, node in addresses.items()]
        return links, [_way(addresses[at], count) for at, count in counts.items()]

    def _link(self, node: str, count: LinkCount | None, address: tuple[str, int], told_ms: float) -> HopFacts:
        rtt_ms = told_ms or (count.rtt_ms if count else 0.0)
        if count is None or not self.tokens:
            return HopFacts(to=node, rtt_ms=rtt_ms)
        before = self._before.get(address, LinkCount())
        sent, received = count.sent - before.sent, count.received - before.received
        return HopFacts(to=node, rtt_ms=rtt_ms, sent_bytes=max(0, sent), received_bytes=max(0, received))


def _way(node: NodeId, count: LinkCount) -> Way:
    """The round trip and bandwidth of a link; the bandwidth is known after the weights were sent."""
    return Way(node=node, rtt_ms=count.rtt_ms, bandwidth=count.rate if count.sent >= ENOUGH_BYTES else 0)
