"""Bytes over one socket, plain or encrypted. One thread receives, any thread may send; receiving has a time limit."""

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

from twd.ring.frames import FrameError, LinkClosedError
from twd.wire.ring import FrameFault

_CHUNK: Final = 1 << 18


class Transport:
    """A plain connection, and the base of the encrypted one. `patience` returns for how many more seconds silence is
    allowed."""

    def __init__(self, sock: socket.socket, patience: Callable[[], float]) -> None:
        sock.settimeout(None)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self.patience = patience
        self.heard = time.monotonic()
        self.sent_bytes = 0
        self.received_bytes = 0
        self._sending = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)

    @property
    def peer_certificate(self) -> bytes:
        """The other end's certificate in DER; empty where the connection is plain."""
        return b""

    def send(self, data: bytes) -> None:
        """Send all bytes; waits while the other end does not read. Raises LinkClosedError."""
        try:
            with self._sending:
                self._send(data)
        except (OSError, ValueError) as error:
            raise LinkClosedError(f"the link is closed: {error}") from None

    def receive(self, limit: int = _CHUNK) -> bytes:
        """Return some bytes; none at the end of the stream."""
        try:
            return self._receive(limit)
        except (OSError, ValueError) as error:
            raise LinkClosedError(f"the link is closed: {error}") from None

    def finish(self) -> None:
        """Tell the other end that nothing more will be sent."""
        self._shut(socket.SHUT_WR)

    def hang_up(self) -> None:
        """End the connection; threads that wait on it wake up."""
        self._shut(socket.SHUT_RDWR)

    def free(self) -> None:
        """Close the socket, when no thread uses it any more."""
        self.hang_up()
        self._selector.close()
        self._sock.close()

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):  # it ended already
            self._sock.shutdown(how)

    def _send(self, data: bytes) -> None:
        self._sock.sendall(data)
        self.sent_bytes += len(data)

    def _receive(self, limit: int) -> bytes:
        return self._raw(limit)

    def _raw(self, limit: int) -> bytes:
        while True:
            left = self.patience()
            if left <= 0:
                raise FrameError(FrameFault.SILENT, "nothing was heard for too long")
            if self._selector.select(left):
                break
        data = self._sock.recv(max(limit, 1))
        self.heard = time.monotonic()
        self.received_bytes += len(data)
        return data


class TlsTransport(Transport):
    """An encrypted connection. TLS runs over memory buffers, since two threads must not use one TLS socket at once."""

    def __init__(
        self, sock: socket.socket, patience: Callable[[], float], context: ssl.SSLContext, *, server_side: bool
    ) -> None:
        super().__init__(sock, patience)
        self._crypt = threading.Lock()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)

    @property
    def peer_certificate(self) -> bytes:
        """The other end's certificate in DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    def shake_hands(self) -> None:
        """Do the TLS handshake, with both certificates; raises LinkClosedError."""
        try:
            while not self._shaken():
                self._in.write(self._more())
        except (OSError, ValueError) as error:
            raise LinkClosedError(f"no encrypted link: {error}") from error

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def _more(self) -> bytes:
        data = self._raw(_CHUNK)
        if not data:
            raise LinkClosedError("the other end hung up while keys were agreed on")
        return data

    def _flush(self) -> None:
        data = self._out.read()
        if data:
            self._sock.sendall(data)
            self.sent_bytes += len(data)

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._crypt:
            while rest:
                rest = rest[self._tls.write(rest) :]
            data = self._out.read()
        super()._send(data)

    def _receive(self, limit: int) -> bytes:
        while True:
            with self._crypt:
                try:
                    return self._tls.read(limit)
                except ssl.SSLWantReadError:
                    owes = self._out.pending
                except ssl.SSLZeroReturnError:
                    return b""
            if owes:
                self.send(b"")
            data = self._raw(_CHUNK)
            if not data:
                return b""
            with self._crypt:
                self._in.write(data)
