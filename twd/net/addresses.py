"""Addresses as people write them: which host is meant, and who can reach it."""

import contextlib
import ipaddress
import socket
from typing import Final

EVERYWHERE: Final = ("", "0.0.0.0", "::", "[::]")


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def is_address(name: str) -> bool:
    """Whether this is an IP address rather than a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a bound address."""
    name = host_name(host) if host.startswith("[") else host.lower()
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def told_host(host: str) -> str:
    """Where other machines find what listens at `host`; an address without brackets, which belong into URLs alone."""
    return lan_address() or socket.gethostname() if host in EVERYWHERE else bare_host(host)


def lan_address() -> str:
    """This machine's address on the way to others: on its default route, else of its first network; empty if alone."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect((far, 9))  # of a datagram socket, this sends nothing
            return str(probe.getsockname()[0])
    import psutil  # slow to import, and seldom needed

    own = [one for many in psutil.net_if_addrs().values() for one in many if one.family == socket.AF_INET]
    return next((one.address for one in own if not is_loopback(one.address)), "")


def bare_host(host: str) -> str:
    """A host as sockets take it: without the brackets that an address has in a URL."""
    return host.strip("[]")


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
