"""TCP keep-alive: notices peers that vanish without closing, as at a power cut."""

import socket
from asyncio.trsock import TransportSocket
from typing import Final

IDLE_S: Final = 10
EVERY_S: Final = 5
TRIES: Final = 4
GONE_S: Final = 30
"""Unacknowledged data this many seconds old ends a connection: a limit for small answers, not for weights."""

_OPTIONS: Final = {
    "TCP_KEEPIDLE": IDLE_S,
    "TCP_KEEPINTVL": EVERY_S,
    "TCP_KEEPCNT": TRIES,
    "TCP_USER_TIMEOUT": GONE_S * 1000,
}


def notice_lost_peers(one: socket.socket | TransportSocket) -> None:
    """Turn on keep-alive, so that the system ends a connection to a lost peer within half a minute.

    On Linux, accepted connections take these options from the listening socket.
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):  # not every system has all of them
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
