"""Addresses as people write them: which host is meant, and who can reach it."""

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
    return socket.gethostname() if host in EVERYWHERE else bare_host(host)


def bare_host(host: str) -> str:
    """A host as sockets take it: without the brackets that an address has in a URL."""
    return host.strip("[]")


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
