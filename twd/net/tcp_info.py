"""Reads the kernel's counters of this process's TCP connections: bytes in both directions and round trip time."""

import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/proc/self/fd")
SIZE: Final = 192
_STATE, _RTT_US, _ACKED, _RECEIVED, _RATE = 0, 68, 120, 128, 160
"""Offsets in Linux's struct tcp_info."""
_CLOSED: Final = (7, 8)
"""TCP states after the other side closed or reset the connection."""


@dataclass(frozen=True, slots=True)
class LinkCount:
    """The sum over the connections of this process to one address."""

    sent: int = 0
    received: int = 0
    rtt_ms: float = 0.0
    rate: int = 0
    """Bytes per second that the connection could carry; 0: nothing was sent."""
    hung_up: bool = False
    """The other end has closed one of them."""


def _joined(before: LinkCount, one: LinkCount) -> LinkCount:
    """The counts of two connections to the same address."""
    return LinkCount(
        before.sent + one.sent,
        before.received + one.received,
        max(before.rtt_ms, one.rtt_ms),
        max(before.rate, one.rate),
        before.hung_up or one.hung_up,
    )


def count_links(addresses: set[tuple[str, int]]) -> dict[tuple[str, int], LinkCount]:
    """Return the counts by address; empty where the system does not tell."""
    if not sys.platform.startswith("linux") or not addresses:
        return {}
    found: dict[tuple[str, int], LinkCount] = {}
    for entry in os.scandir(FOLDER):
        try:
            if not os.readlink(entry.path).startswith("socket:"):
                continue
            counted = _count(int(entry.name), addresses)
        except OSError:  # closed meanwhile, or not connected
            continue
        if counted is not None:
            address, one = counted
            found[address] = _joined(found.get(address, LinkCount()), one)
    return found


def _count(descriptor: int, addresses: set[tuple[str, int]]) -> tuple[tuple[str, int], LinkCount] | None:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.type != socket.SOCK_STREAM or copy.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        peer = copy.getpeername()
        address = (str(peer[0]), int(peer[1]))
        if address not in addresses:
            return None
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SIZE).ljust(SIZE, b"\0")
    (rtt_us,) = struct.unpack_from("I", info, _RTT_US)
    acked, received = struct.unpack_from("QQ", info, _ACKED)
    (rate,) = struct.unpack_from("Q", info, _RATE)
    return address, LinkCount(acked, received, round(rtt_us / 1000, 3), rate, info[_STATE] in _CLOSED)
