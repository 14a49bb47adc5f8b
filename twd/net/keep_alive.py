"""TCP connections whose other side may vanish without a word: a machine that loses power hangs up on nobody."""

import socket
from asyncio.trsock import TransportSocket
from typing import Final

IDLE_S: Final = 10
EVERY_S: Final = 5
TRIES: Final = 4
GONE_S: Final = 30
"""What was sent and not taken for so long has nobody to read it: a bound for small answers, not for weights."""

_OPTIONS: Final = {
    "TCP_KEEPIDLE": IDLE_S,
    "TCP_KEEPINTVL": EVERY_S,
    "TCP_KEEPCNT": TRIES,
    "TCP_USER_TIMEOUT": GONE_S * 1000,
}


def notice_lost_peers(one: socket.socket | TransportSocket) -> None:
    """Have the system ask a silent peer whether it is there, and end the connection within half a minute if not.

    On Linux what a listening socket is told holds for every connection that it takes.
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):  # each system has some of them
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
