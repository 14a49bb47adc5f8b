"""The API's port on its way from an edge to the one that takes its place, in the run folder of their installation."""

import logging
import socket
from pathlib import Path
from typing import Final

from twd.net.handed_socket import SocketOffer, take_socket

OFFERED: Final = "edge.sock"
"""Where an edge offers its port to whoever replaces it."""
NEXT: Final = "edge.next.sock"
"""Where the next edge gets it."""


class HandedDoor:
    """The port of one edge, as it comes and goes."""

    def __init__(self, run: Path, log: logging.Logger) -> None:
        self._run = run
        self._log = log
        self._offer: SocketOffer | None = None
        self.waiting: socket.socket | None = None
        """A port that came, at which nobody is answered yet."""
        self.is_taken = False
        """Somebody has it who will replace this edge."""

    def take(self) -> int:
        """Take the port from whoever keeps it while versions change; returns its number, 0 where nobody does."""
        self.waiting = take_socket(self._run / NEXT)
        return self.waiting.getsockname()[1] if self.waiting is not None else 0

    def begin(self) -> socket.socket | None:
        """Return the port that came, and offer it from now on."""
        begun, self.waiting = self.waiting, None
        if begun is not None:
            self.offer(begun.dup())
        return begun

    def offer(self, port: socket.socket | None) -> None:
        """Offer a port to the next edge; without a way to do so the port is closed while versions change."""
        if port is None or not hasattr(socket, "send_fds"):
            return
        self._offer = SocketOffer(self._run / OFFERED, port, self._note)
        try:
            self._offer.open()
        except OSError as error:
            self._log.info("the port cannot be handed over: %s", error)

    def _note(self) -> None:
        self.is_taken = True

    def close(self) -> None:
        """Offer nothing any more."""
        for one in (self._offer, self.waiting):
            if one is not None:
                one.close()
        self._offer = self.waiting = None
