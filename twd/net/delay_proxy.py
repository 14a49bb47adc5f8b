"""A TCP proxy that simulates a distant machine: each byte arrives a fixed time later, in order, at full bandwidth.

It uses threads with blocking sockets, because the timers of an event loop are only exact to a millisecond.
"""

import asyncio
import contextlib
import queue
import socket
import threading
import time
from typing import Final

CHUNK: Final = 1 << 20
CONNECT_S: Final = 5.0
QUEUED_MAX: Final = 4096
"""The most chunks on their way; a sender that is faster than its reader waits."""


class DelayProxy:
    """Listens on loopback and forwards to a target, `delay_s` seconds later in each direction."""

    def __init__(self, target_host: str, target_port: int, delay_s: float) -> None:
        self._target = (target_host, target_port)
        self.delay_s = delay_s
        """The delay in seconds. It may change at any time; data on its way keeps its time, and the order stays."""
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.bytes_there = 0
        self.bytes_back = 0

    async def start(self) -> int:
        """Start to listen; returns the port."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, args=(self._listener,), name="delay-accept", daemon=True).start()
        return int(self._listener.getsockname()[1])

    async def close(self) -> None:
        """Close all connections."""
        listener, self._listener = self._listener, None
        with self._lock:
            sockets = [*self._open, *([listener] if listener else [])]
            self._open.clear()
        await asyncio.to_thread(_hang_up, sockets)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed: the proxy ends
                return
            threading.Thread(target=self._connect, args=(client,), name="delay-connect", daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Copy both ways until both have ended."""
        there = self._pump(client, server, "bytes_there")
        back = self._pump(server, client, "bytes_back")
        for thread in (*there, *back):
            thread.join()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, CONNECT_S)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        ends = (client, server)
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.update(ends)
        self._carry(client, server)
        with self._lock:
            self._open.difference_update(ends)
        _hang_up(ends)

    def _pump(self, source: socket.socket, target: socket.socket, counter: str) -> tuple[threading.Thread, ...]:
        way: queue.Queue[tuple[float, bytes]] = queue.Queue(QUEUED_MAX)
        threads = (
            threading.Thread(target=self._read, args=(source, way, counter), name="delay-read", daemon=True),
            threading.Thread(target=_write, args=(target, way), name="delay-write", daemon=True),
        )
        for thread in threads:
            thread.start()
        return threads

    def _read(self, source: socket.socket, way: "queue.Queue[tuple[float, bytes]]", counter: str) -> None:
        data = b"first"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:  # a reset counts as the end of the stream
                data = b""
            setattr(self, counter, getattr(self, counter) + len(data))
            way.put((time.perf_counter() + self.delay_s, data))


def _write(target: socket.socket, way: "queue.Queue[tuple[float, bytes]]") -> None:
    broken = False
    while True:
        due, data = way.get()
        wait = due - time.perf_counter()
        if wait > 0 and not broken:
            time.sleep(wait)
        if not data:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)
            return
        if broken:
            continue  # keep reading from the queue until the other side ends
        try:
            target.sendall(data)
        except OSError:
            broken = True


def _hang_up(sockets: "tuple[socket.socket, ...] | list[socket.socket]") -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
