"""An encrypted tunnel to a port that has no security of its own: that of llama.cpp's RPC worker.

client -> Entry (loopback, at home) == TLS, both certificates pinned == Exit (at the agent) -> worker (loopback)
"""

import asyncio
import itertools
import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from twd.kit.tasks import TaskGroup
from twd.net.addresses import bare_host
from twd.net.keep_alive import notice_lost_peers
from twd.ring.trust import LinkIdentity, client_context, server_context
from twd.wire.failures import TwdError

CHUNK: Final = 256 * 1024
REACH_S: Final = 5.0
LOOPBACK: Final = "127.0.0.1"

log = logging.getLogger("twd.tunnel")


class _End(ABC):
    """What both ends share: a listening port, and pairs of connections between which bytes are passed on."""

    def __init__(self, name: str) -> None:
        self._tasks = TaskGroup(name, lambda task, error: log.error("%s: %r", task, error))
        self._server: asyncio.Server | None = None
        self._numbers = itertools.count(1)

    async def close(self) -> None:
        """Close the port and all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._tasks.close()

    @abstractmethod
    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the other side, for a connection that was accepted."""

    async def _listen(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        limits = {"ssl_handshake_timeout": REACH_S} if context is not None else {}
        self._server = await asyncio.start_server(self._came, bare_host(host), port, ssl=context, limit=CHUNK, **limits)
        return int(self._server.sockets[0].getsockname()[1])

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            writer.close()
        else:
            number = next(self._numbers)
            serving = self._tasks.start(f"connection {number}", self._serve(number, reader, writer))
            serving.add_done_callback(lambda _: writer.close())

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REACH_S):
                far_reader, far_writer = await self._reach()
        except (OSError, TimeoutError, TwdError) as error:
            log.warning("the way is closed: %s", error or "no answer in time")
            return
        with closing(far_writer):
            for one in (writer, far_writer):
                connection = one.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_lost_peers(writer.get_extra_info("socket"))  # not at the worker's side: a worker may read slowly
            passing = [
                self._tasks.start(f"there {number}", _pass(reader, far_writer)),
                self._tasks.start(f"back {number}", _pass(far_reader, writer)),
            ]
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)


class TunnelExit(_End):
    """The end at the worker: accepts clients whose certificates it was given."""

    def __init__(self, identity: LinkIdentity, host: str, target_port: int) -> None:
        super().__init__("tunnel exit")
        self._host = host
        self._target_port = target_port
        self._context = server_context(identity, [identity.certificate])
        self._known: set[str] = set()

    async def start(self) -> int:
        """Start to listen; return the port."""
        return await self._listen(self._host, 0, self._context)

    def admit(self, certificates: Sequence[str]) -> None:
        """Accept these certificates, too, from now on. A key never outlives its process, so none need be removed."""
        for certificate in certificates:
            if certificate not in self._known:
                self._known.add(certificate)
                try:
                    self._context.load_verify_locations(cadata=certificate)
                except (ssl.SSLError, ValueError) as error:
                    log.warning("a certificate that cannot be read is left aside: %s", error)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(LOOPBACK, self._target_port, limit=CHUNK)


class TunnelEntry(_End):
    """The end at the client: a loopback port that leads to a worker on another machine."""

    def __init__(self, identity: LinkIdentity, host: str, port: int, certificate: str) -> None:
        super().__init__("tunnel entry")
        self._to = (host, port)
        self._context = client_context(identity, certificate)

    async def start(self) -> int:
        """Start to listen on loopback; return the port."""
        return await self._listen(LOOPBACK, 0, None)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._to, ssl=self._context, limit=CHUNK)


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    except (OSError, ssl.SSLError):  # one side closed its connection; the other one is then closed, too
        return
