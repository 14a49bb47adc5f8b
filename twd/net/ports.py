"""Ports of this machine: which is free, and whose processes listen."""

import os
import socket
import stat
from collections.abc import Iterable
from typing import Final

import psutil

from twd.net.addresses import bare_host

LOOPBACK: Final = "127.0.0.1"


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server((LOOPBACK, 0)) as held:
        return int(held.getsockname()[1])


def bindable_port(host: str, port: int) -> int:
    """The port where a service could listen now, for 0 a free one; raises OSError where it could not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if os.name != "nt":  # there it would take the port from whoever has it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((bare_host(host), port))
        return int(probe.getsockname()[1])


def listening_below(pids: Iterable[int]) -> list[int]:
    """The processes under these that others can connect to; one that waits for its start takes nobody in."""
    below = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    return [child.pid for child in below if _listening(child)]


def listening_socket() -> socket.socket | None:
    """Another handle of the port on which this process listens, whoever opened it; None while nobody did."""
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                one = socket.socket(fileno=os.dup(int(name)))
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return one
                one.close()
        except OSError:  # closed meanwhile
            continue
    return None


def listens_on(pid: int, port: int) -> bool:
    """Whether a process takes connections on a port. Trying would tell, too; but a connection to a port that nobody
    has may begin at that very port: it reaches itself, and keeps out the process that was to listen there."""
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
