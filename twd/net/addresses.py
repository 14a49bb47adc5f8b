"""Host addresses: parses them, and tells which machines can reach them."""

import contextlib
import ipaddress
import socket
from typing import Final

EVERYWHERE: Final = ("", "0.0.0.0", "::", "[::]")


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def is_address(name: str) -> bool:
    """Return whether this is an IP address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a bound address."""
    name = host_name(host) if host.startswith("[") else host.lower()
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def told_host(host: str) -> str:
    """Return the address at which other machines reach what listens at `host`, without brackets."""
    return lan_address() or socket.gethostname() if host in EVERYWHERE else bare_host(host)


def lan_address() -> str:
    """Return this machine's address: that of its default route, else of its first network; empty without network."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect((far, 9))  # of a datagram socket, this sends nothing
            return str(probe.getsockname()[0])
    import psutil  # slow to import, and seldom needed

    own = [one for many in psutil.net_if_addrs().values() for one in many if one.family == socket.AF_INET]
    return next((one.address for one in own if not is_loopback(one.address)), "")


def bare_host(host: str) -> str:
    """Return a host without the brackets of a URL, as sockets need it."""
    return host.strip("[]")


def bracketed(host: str) -> str:
    """Return a host as in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
