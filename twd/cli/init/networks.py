"""The networks that this machine is on, small enough to be searched."""

import ipaddress
import socket
from typing import Final

import psutil

LARGEST: Final = 20
"""Bits of the prefix: a network of 4,094 addresses is searched in seconds, a larger one has to be named."""


def own_networks() -> list[str]:
    """Private IPv4 networks of interfaces that are up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found: dict[str, None] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if name in up and one.family is socket.AF_INET and one.netmask:
                network = ipaddress.ip_network(f"{one.address}/{one.netmask}", strict=False)
                if network.is_private and not network.is_loopback and network.prefixlen >= LARGEST:
                    found[str(network)] = None
    return list(found)
