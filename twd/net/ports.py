"""Ports of this machine: which are free, and which processes listen."""

import contextlib
import os
import random
import socket
import stat
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

import psutil

from twd.net.addresses import bare_host

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_768)
"""Ports for processes: below those that Linux gives to outgoing connections."""
PORT_TRIES: Final = 64
_lately: Final[deque[int]] = deque(maxlen=256)
"""Ports that this process was given lately."""


def free_port(host: str = LOOPBACK, promised: Collection[int] = ()) -> int:
    """Return a free port, none of `promised`, that the system gives to no outgoing connection before a process
    listens on it; nor is it one that this process was given lately, on which nobody may listen yet. Raises OSError if
    there is none at this host."""
    for port in random.SystemRandom().sample(PORTS, PORT_TRIES):
        if port not in promised and port not in _lately:
            with contextlib.suppress(OSError):
                _lately.append(bindable_port(host, port))
                return port
    while (found := bindable_port(host, 0)) in promised:
        continue
    return found


def free_ports(count: int) -> list[int]:
    """Return so many free ports of loopback, each another one."""
    ports: list[int] = []
    while len(ports) < count:
        ports.append(free_port(promised=ports))
    return ports


def bindable_port(host: str, port: int) -> int:
    """Return the port where a service could listen now (for 0 a free one); raises OSError if it could not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if os.name != "nt":  # there it would allow to bind a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((bare_host(host), port))
        return int(probe.getsockname()[1])


def listening_below(pids: Iterable[int]) -> list[int]:
    """Return the pids below these that listen on a port."""
    below = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    return [child.pid for child in below if _listening(child)]


def listening_socket(port: int = 0) -> socket.socket | None:
    """Return a duplicate of the socket on which this process listens, at this port if one is given; None if there is
    none."""
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                one = socket.socket(fileno=os.dup(int(name)))
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and port in (0, _port_of(one)):
                    return one
                one.close()
        except OSError:  # closed meanwhile
            continue
    return None


def _port_of(listening: socket.socket) -> int:
    name = listening.getsockname()
    return int(name[1]) if isinstance(name, tuple) else -1  # one of this machine alone has a path


def listens_on(pid: int, port: int) -> bool:
    """Return whether a process listens on a port.

    A test connection would not do: it may get this very port as its own source port, connect to itself, and keep the
    process from listening there.
    """
    try:
        return port in _listening(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _listening(process: psutil.Process) -> set[int]:
    try:
        found = process.net_connections("tcp")
    except psutil.Error:  # it ended just now
        return set()
    return {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN}
