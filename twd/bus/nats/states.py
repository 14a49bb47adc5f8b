"""What a connection to the broker reports of itself."""

import enum
import logging
from collections.abc import Callable

log = logging.getLogger("twd.bus")


class BusState(enum.StrEnum):
    """The states of a connection that are reported."""

    CONNECTED = "connected"
    LOST = "lost"
    REFUSED = "refused"
    DENIED = "denied"
    CLOSED = "closed"


OnEvent = Callable[[BusState, str], None]
"""Called at every change of the state, with the reason in words."""


def log_event(state: BusState, detail: str) -> None:
    """The default for `on_event`: writes to the log."""
    quiet = state in (BusState.CONNECTED, BusState.CLOSED)
    log.log(logging.INFO if quiet else logging.WARNING, "bus %s: %s", state, detail)
