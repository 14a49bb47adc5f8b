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
from twd.edge.http.replies import sent_if_large
from twd.net.addresses import bare_host, bracketed
from twd.settings.model import EdgeConfig
from twd.wire.failures import FailureCode, TwdError

CLOSING_S = 2.0
IDLE_CONNECTION_S = 75.0


class HttpServer:
    """The HTTP server of one edge. If a client leaves, its handler is cancelled."""

    def __init__(
        self, settings: EdgeConfig, threshold: AuthMiddleware, counters: EdgeCounters, log: logging.Logger
    ) -> None:
        self.port = settings.port
        self._settings = settings
        self._threshold = threshold
        self._counters = counters
        self._log = log
        self._runner: web.AppRunner | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        host = bracketed(near_host(self._settings.host))
        return f"{'https' if self._settings.tls.cert else 'http'}://{host}:{self.port}"

    async def open(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Bind the port and start to serve."""
        app = web.Application(middlewares=[self._middleware()])
        app.add_routes(routes)
        app.on_response_prepare.append(self._threshold.add_headers)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            logger=quiet_about_bad_http(self._log.getChild("http")),
            lingering_time=CLOSING_S,
            keepalive_timeout=IDLE_CONNECTION_S,
            shutdown_timeout=CLOSING_S,
        )
        await self._runner.setup()
        await self._listen(self._runner)

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
        if self._runner is not None:
            await self._runner.cleanup()
