"""Who may use the peer API: whoever has the token; without a token, programs on this machine, but no web page."""

from collections.abc import Mapping
from dataclasses import dataclass

from twd.net.addresses import is_loopback
from twd.net.http_access import HttpAccess
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
        HttpAccess(self.token, "use an agent", "agent.token of this machine").check(headers)
