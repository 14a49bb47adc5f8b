"""The server of the peer API: binds the port, checks access, limits requests, and gives all errors one form."""

import asyncio
import logging
import math
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from twd.agent.core import RateLimiter
from twd.agent.rest.access_policy import PeerAccessPolicy, check_bind
from twd.agent.rest.connection_limits import BETWEEN_REQUESTS_S, ConnectionLimits, GuardedSite
from twd.kit.clock import Clock
from twd.net.addresses import bare_host, bracketed, is_loopback, told_host
from twd.own_certificate import read_or_make_certificate
from twd.settings.model import AgentConfig
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.reading import NONSENSE

BODY_MAX: Final = 64 * 1024
BODY_S: Final = 10.0
CLOSING_S: Final = 2.0
WRONG_TOKEN_COST: Final = 8.0
T = TypeVar("T")


class TooManyRequests(TwdError):
    """One address sends too many requests."""

    def __init__(self, wait_s: float) -> None:
        self.retry_after = max(1, math.ceil(wait_s))
        super().__init__(FailureCode.RATE_LIMITED, f"too many requests; come back in {self.retry_after} s")


class PeerServer:
    """The server of one agent."""

    def __init__(self, settings: AgentConfig, home: Path, clock: Clock, log: logging.Logger) -> None:
        """`home`: the folder of the certificate for connections from other machines."""
        self._settings = settings
        self._home = home
        self._clock = clock
        self._log = log
        self._door = PeerAccessPolicy(settings.token)
        self._limiter = RateLimiter()
        self._guests = ConnectionLimits()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the server; other machines can use it only if it listens beyond loopback."""
        scheme = "https" if self._settings.encrypted else "http"
        return f"{scheme}://{bracketed(told_host(self._settings.host))}:{self.port}"

    async def open(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Bind the port, and answer requests."""
        check_bind(self._settings.host, self._settings.token)
        app = web.Application(middlewares=[self._middleware()], client_max_size=BODY_MAX)
        app.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=CLOSING_S,
            keepalive_timeout=BETWEEN_REQUESTS_S,
        )
        await self._runner.setup()
        context = await asyncio.to_thread(self._tls_context) if self._settings.encrypted else None
        await self._listen(self._runner, context)

    def _tls_context(self) -> ssl.SSLContext:
        notes: list[str] = []
        own = read_or_make_certificate(self._home, notes)
        for note in notes:
            self._log.warning("%s", note)
        self._log.info("the peer API shows the certificate with SHA-256 %s", own.fingerprint)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(own.file)
        return context

    async def _listen(self, runner: web.AppRunner, context: ssl.SSLContext | None) -> None:
        host, port = bare_host(self._settings.host), self._settings.port
        try:
            await GuardedSite(runner, host, port, self._guests, ssl_context=context).start()
        except OSError as error:
            if not port or not is_loopback(host):
                text = f"the agent cannot listen on {host}:{port}: {error.strerror}. Set another agent.port."
                raise TwdError(FailureCode.BAD_REQUEST, text, "agent.port") from None
            self._log.warning("port %d is taken; the peer API takes a free one", port)
            await GuardedSite(runner, host, 0, self._guests, ssl_context=context).start()
        self.port = runner.addresses[0][1]

    async def close(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _middleware(self) -> Middleware:
        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._guests.served(request.transport)
            try:
                self._let_in(request)
                return await handler(request)
            except TooManyRequests as error:
                reply = error_reply(error.failure)
                reply.headers["Retry-After"] = str(error.retry_after)
                return reply
            except TwdError as error:
                return error_reply(error.failure)
            except web.HTTPException as error:
                return _http_error(request, error)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - the edge: logged, and told without its details
                self._log.exception("fault while answering %s %s", request.method, request.path)
                text = f"{type(error).__name__} inside the agent; its log has the story"
                return error_reply(Failure(code=FailureCode.INTERNAL, message=text))

        return around

    def _let_in(self, request: web.Request) -> None:
        who, now = request.remote or "", self._clock.now()
        if wait_s := self._limiter.wait_s(who, now):
            raise TooManyRequests(wait_s)
        try:
            self._door.check(request.headers)
        except TwdError:
            if wait_s := self._limiter.wait_s(who, now, WRONG_TOKEN_COST):
                raise TooManyRequests(wait_s) from None
            raise


def _http_error(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return one of aiohttp's own errors in the usual form."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return error_reply(Failure(code=FailureCode.TOO_LARGE, message=f"the body is larger than {BODY_MAX} bytes"))
    text = f"{request.method} {request.path[:200]}: {error.reason}"
    return error_reply(Failure(code=FailureCode.BAD_REQUEST, message=text), error.status)


def error_reply(failure: Failure, status: int = 0) -> web.Response:
    """Return a failure as an HTTP response."""
    told = {"code": failure.code, "message": failure.message, "field": failure.field}
    return json_reply({"error": {key: value for key, value in told.items() if value}}, status or failure.status)


def json_reply(content: object, status: int = 200) -> web.Response:
    """Return a value as a JSON response."""
    return web.Response(body=msgspec.json.encode(content), content_type="application/json", status=status)


async def read_json(request: web.Request, kind: type[T]) -> T:
    """Return the request body as a checked value; raises BAD_REQUEST."""
    try:
        async with asyncio.timeout(BODY_S):
            data = await request.read()
    except TimeoutError:
        raise TwdError(FailureCode.BAD_REQUEST, f"the body did not come within {BODY_S:g} s") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except NONSENSE as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"the body cannot be used: {error}") from None


def read_query(request: web.Request, kind: type[T]) -> T:
    """Return the query as a checked value (its numbers are text); raises BAD_REQUEST."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"the query cannot be used: {error}") from None
