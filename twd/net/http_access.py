"""Who may use a port of ours over HTTP: whoever has the token; without one, programs of this machine; no web page."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from twd.net.addresses import host_name, is_address
from twd.wire.failures import FailureCode, TwdError


@dataclass(frozen=True)
class HttpAccess:
    """Decides on each request by its headers."""

    token: str
    pages_may_not: str
    """What is said to web pages, as in "use an agent"."""
    right_token: str
    """Which token is the right one, as in "agent.token of this machine"."""

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise the error for the caller where a request is not allowed."""
        self.check_page(headers)
        if self.token:
            self._check_token(headers.get("Authorization", ""))
        else:
            _check_host(headers.get("Host", ""))

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Raise for a request of a web page."""
        if "Origin" in headers:
            raise TwdError(FailureCode.FORBIDDEN, f"web pages may not {self.pages_may_not}")

    def _check_token(self, given: str) -> None:
        scheme, _, secret = given.partition(" ")
        if not given:
            raise TwdError(FailureCode.UNAUTHENTICATED, "a token is needed: send 'Authorization: Bearer TOKEN'")
        right = hmac.compare_digest(secret.strip().encode("utf-8", "surrogateescape"), self.token.encode())
        if scheme.lower() != "bearer" or not right:
            raise TwdError(FailureCode.UNAUTHENTICATED, f"this token is wrong; it must be {self.right_token}")


def _check_host(host: str) -> None:
    """Raise for a Host that is not this machine: after DNS rebinding, a web page sends its own host name."""
    name = host_name(host)
    if name and name != "localhost" and not name.endswith(".localhost") and not is_address(name):
        raise TwdError(FailureCode.FORBIDDEN, f"host {host[:100]!r} is not this machine's name")
