"""Tells the service manager (systemd) how this process is, by its notify protocol: datagrams to a Unix socket."""

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Final

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES: Final = ("WATCHDOG_USEC", "WATCHDOG_PID")
SEND_S: Final = 0.2
_log = logging.getLogger("twd.notify")


class NotifySocket:
    """The way to the service manager that started this process."""

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        """`watchdog_s`: the service manager ends us if it hears no sign of life for so long; 0: it does not look."""
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._told_of = ""

    @classmethod
    def inherited(cls, environment: MutableMapping[str, str] = os.environ) -> "NotifySocket | None":
        """Return the way to the service manager, or None. No child inherits the variables: only this process speaks."""
        address = environment.pop(SOCKET_VARIABLE, "")
        microseconds, pid = (environment.pop(name, "") for name in WATCHDOG_VARIABLES)
        if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
            return None
        watched = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1_000_000 if watched else 0.0)

    def send(self, **fields: str | int) -> bool:
        """Send one message, such as READY=1; a line break in a value becomes a blank. Returns whether it was taken."""
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
                way.settimeout(SEND_S)
                way.sendto(text.encode(), self._address)
        except OSError as error:
            self._tell(f"the service manager cannot be told: {error}")
            return False
        return True

    def _tell(self, problem: str) -> None:
        if problem != self._told_of:
            _log.warning("%s", problem)
        self._told_of = problem
