"""Who may use the peer API: whoever has the token; without a token, programs on this machine, but no web page."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from twd.net.addresses import host_name, is_address, is_loopback
from twd.wire.failures import FailureCode, TwdError


def check_bind(host: str, token: str) -> None:
    """Raise where the port is open to other machines but no token is set."""
    if not is_loopback(host) and not token:
        text = (
            f"agent.host is {host}, so other machines could start processes here, and no token is set. Set agent.token "
            "(TWD_AGENT_TOKEN) to the same secret on all machines, or listen on 127.0.0.1"
        )
        raise TwdError(FailureCode.FORBIDDEN, text, "agent.token")


@dataclass(frozen=True)
class PeerAccessPolicy:
    """Decides on each request by its headers."""

    token: str = ""

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise the error for the caller where a request is not allowed."""
        if "Origin" in headers:
            raise TwdError(FailureCode.FORBIDDEN, "web pages may not use an agent")
        if self.token:
            self._check_token(headers.get("Authorization", ""))
        else:
            _check_host(headers.get("Host", ""))

    def _check_token(self, given: str) -> None:
        scheme, _, secret = given.partition(" ")
        if not given:
            raise TwdError(FailureCode.UNAUTHENTICATED, "a token is needed: send 'Authorization: Bearer TOKEN'")
        right = hmac.compare_digest(secret.strip().encode("utf-8", "surrogateescape"), self.token.encode())
        if scheme.lower() != "bearer" or not right:
            raise TwdError(FailureCode.UNAUTHENTICATED, "this token is wrong; it must be agent.token of this machine")


def _check_host(host: str) -> None:
    """Raise for a Host that is not this machine: after DNS rebinding, a web page sends its own host name."""
    name = host_name(host)
    if name and name != "localhost" and not name.endswith(".localhost") and not is_address(name):
        raise TwdError(FailureCode.FORBIDDEN, f"host {host[:100]!r} is not this machine's name")
