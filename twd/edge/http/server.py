"""The HTTP server: the port, TLS, and the one middleware around every handler."""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from twd.bus.urls import near_host
from twd.edge.auth.certificate import tls_context
from twd.edge.auth.middleware import AuthMiddleware
from twd.edge.http.error_middleware import quiet_about_bad_http, reply_or_failure
from twd.edge.http.generation_handlers import EdgeCounters
from twd.edge.http.handover import HandedDoor
from twd.edge.http.replies import sent_if_large
from twd.net.addresses import bare_host, bracketed
from twd.net.ports import listening_socket
from twd.settings.model import EdgeConfig
from twd.wire.failures import FailureCode, TwdError

CLOSING_S = 2.0
IDLE_CONNECTION_S = 75.0
BEGUN_S = 0.25
"""Who was accepted last has so long to send a request, before connections without one are closed."""


class HttpServer:
    """The HTTP server of one edge. If a client leaves, its handler is cancelled."""

    def __init__(
        self,
        settings: EdgeConfig,
        threshold: AuthMiddleware,
        counters: EdgeCounters,
        log: logging.Logger,
        handover: HandedDoor | None = None,
    ) -> None:
        """`handover`: where the port comes from while another version takes over, and goes to."""
        self.port = settings.port
        self._settings = settings
        self._threshold = threshold
        self._counters = counters
        self._log = log
        self._runner: web.AppRunner | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._handover = handover

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        host = bracketed(near_host(self._settings.host))
        return f"{'https' if self._settings.tls.cert else 'http'}://{host}:{self.port}"

    def _runner_of(self, app: web.Application) -> web.AppRunner:
        return web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            logger=quiet_about_bad_http(self._log.getChild("http")),
            lingering_time=CLOSING_S,
            keepalive_timeout=IDLE_CONNECTION_S,
            shutdown_timeout=CLOSING_S,
        )

    async def open(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Bind the port and start to serve."""
        app = web.Application(middlewares=[self._middleware()])
        app.add_routes(routes)
        app.on_response_prepare.append(self._threshold.add_headers)
        self._runner = self._runner_of(app)
        await self._runner.setup()
        if self._handover is not None and (port := self._handover.take()):
            self.port = port
            return
        await self._listen(self._runner)
        if self._handover is not None and len(self._runner.addresses) == 1:
            self._handover.offer(listening_socket(self.port))

    @property
    def waits(self) -> bool:
        """Whether the port came from another edge, and nobody is answered yet: who connects waits."""
        return self._handover is not None and self._handover.waiting is not None

    async def begin(self) -> None:
        """Answer those who wait at a port that came from another edge."""
        if self._runner is None or self._handover is None or (taken := self._handover.begin()) is None:
            return
        await web.SockSite(self._runner, taken, ssl_context=tls_context(self._settings.tls)).start()

    async def hand_over(self) -> None:
        """Accept no more connections, and end idle ones, if another process has the port now."""
        if self._handover is None or not self._handover.is_taken or self._runner is None:
            return
        for site in self._runner.sites:
            await site.stop()
        await asyncio.sleep(BEGUN_S)
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = self._settings.host, self._settings.port
        try:
            await web.TCPSite(runner, bare_host(host), port, ssl_context=tls_context(self._settings.tls)).start()
        except OSError as error:
            text = f"the edge cannot listen on {host}:{port}: {error.strerror}. Set another TWD_EDGE_PORT."
            raise TwdError(FailureCode.BAD_REQUEST, text, "edge.port") from None
        self.port = runner.addresses[0][1]

    def _middleware(self) -> Middleware:
        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._enter()
            try:
                reply = await reply_or_failure(
                    request, partial(self._threshold.pass_through, handler=handler), self._log
                )
                return await sent_if_large(request, reply)
            finally:
                self._leave()

        return around

    def _enter(self) -> None:
        self._counters.requests += 1
        self._counters.in_flight += 1
        self._quiet.clear()

    def _leave(self) -> None:
        self._counters.in_flight -= 1
        if not self._counters.in_flight:
            self._quiet.set()

    async def quiet(self) -> None:
        """Wait until no request is in progress."""
        await self._quiet.wait()

    async def close(self) -> None:
        """Let handlers send their last data, then close all connections."""
        if self._handover is not None:
            self._handover.close()
        if self._runner is not None:
            await self._runner.cleanup()
