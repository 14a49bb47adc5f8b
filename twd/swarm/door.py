"""Who may read files here: clients with the token, from allowed addresses; without a token only this machine."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twd.net.addresses import is_loopback
from twd.net.http_access import HttpAccess
from twd.wire.failures import FailureCode, TwdError


def host_for(host: str, token: str) -> str:
    """Return the host to listen on: the given one, else all addresses with a token, else loopback."""
    return host or ("0.0.0.0" if token else "127.0.0.1")


def check_bind(host: str, token: str, allowed: Sequence[str] = ()) -> None:
    """Raise TwdError if files would be given to a network without a token."""
    if not is_loopback(host) and not token:
        text = (
            f"the seeder would give files to everybody who reaches {host}, and no token is set. Give --token "
            "(swarm.token, TWD_SWARM_TOKEN), the same on all machines, or listen on 127.0.0.1"
        )
        raise TwdError(FailureCode.FORBIDDEN, text, "swarm.token")


@dataclass(frozen=True)
class Door:
    """Checks each request by its headers and its address."""

    token: str = ""
    allowed: Sequence[str] = ()
    open: bool = False
    """True for a port that admits only known certificates, or for a trusted network."""

    def check(self, headers: Mapping[str, str], remote: str) -> None:
        """Raise TwdError if the request is refused."""
        access = HttpAccess(self.token, "take files here", "the one of this seeder")
        if self.open:
            access.check_page(headers)
            return
        access.check(headers)
        if self.allowed and not _within(remote, self.allowed):
            text = f"{remote or 'this address'} is not among swarm.allowed_ips (--allowed-ips) of this seeder"
            raise TwdError(FailureCode.FORBIDDEN, text)


def _within(remote: str, allowed: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(one, strict=False) for one in allowed)
