"""Limits of connections to the agent's port: their number from one address, and their time without a request."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final

from aiohttp import web

OF_ONE_ADDRESS: Final = 32
AT_MOST: Final = 256
FIRST_REQUEST_S: Final = 10.0
"""Seconds from the connection to the first complete head of a request."""
BETWEEN_REQUESTS_S: Final = 30.0


class ConnectionLimits:
    """Counts connections. `served` is called for each request that came."""

    def __init__(self, first_request_s: float = FIRST_REQUEST_S, of_one_address: int = OF_ONE_ADDRESS) -> None:
        self._first_request_s = first_request_s
        self._of_one_address = of_one_address
        self._places: Counter[str] = Counter()
        self._silent: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def enter(self, transport: asyncio.Transport, address: str) -> bool:
        """Count a new connection; return False where its address, or all together, have too many."""
        if self._places[address] >= self._of_one_address or self._places.total() >= AT_MOST:
            return False
        self._places[address] += 1
        loop = asyncio.get_running_loop()
        self._silent[transport] = loop.call_later(self._first_request_s, transport.abort)
        return True

    def served(self, transport: asyncio.BaseTransport | None) -> None:
        """A request came: stop the timer, since the server itself now limits the connection."""
        timer = self._silent.pop(transport, None) if transport is not None else None
        if timer is not None:
            timer.cancel()

    def leave(self, transport: asyncio.BaseTransport, address: str) -> None:
        """Remove a closed connection from the count."""
        self.served(transport)
        self._places[address] -= 1
        if not self._places[address]:
            del self._places[address]


class _Guarded(asyncio.Protocol):
    """One connection; it wraps aiohttp's own handler."""

    def __init__(self, inner: asyncio.Protocol, guests: ConnectionLimits) -> None:
        self._inner = inner
        self._guests = guests
        self._place: tuple[asyncio.Transport, str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._guests.enter(transport, address):
            transport.abort()
            return
        self._place = transport, address
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place is not None:
            self._guests.leave(*self._place)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._place is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._place is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class GuardedSite(web.TCPSite):
    """A port whose connections are counted and limited."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        guests: ConnectionLimits,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, host, port, ssl_context=ssl_context)
        self._guests = guests

    async def start(self) -> None:
        """Bind the port."""
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        made: Callable[[], asyncio.Protocol] = lambda: _Guarded(server(), self._guests)  # noqa: E731
        self._server = await asyncio.get_running_loop().create_server(
            made,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            reuse_address=self._reuse_address,
        )
