"""The HTTP client for all backends: every wait has a time limit, every answer a size limit, every error a code."""

import asyncio
import ipaddress
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from twd.backends.clients.streams import EventParser, LineSplitter, TooLong
from twd.backends.clients.upstream_errors import read_trouble
from twd.net.url_guard import ServerUrl, check_literal, parse_base, refusal, refused
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

BODY_BYTES_MAX: Final = 8 << 20
SCORES_BYTES_MAX: Final = 64 << 20
"""Bytes of an answer with the scores of every position of a long prompt."""
ERROR_BYTES_MAX: Final = 64 << 10
STREAM_BYTES_MAX: Final = 256 << 20
CONNECT_S: Final = 10.0
SETTLE_S: Final = 0.05
STALE_MAX: Final = 2
"""A request fails after this many kept connections turned out to be closed."""
_CONNECTIONS_MAX: Final = 256
_READ_BYTES: Final = 64 << 10

T = TypeVar("T")


class KeyRefused(TwdError):
    """The server answers, but refuses our key."""


class _RefusedAddress(OSError):
    """A host name resolved to an address that must not be opened."""

    def __init__(self, error: TwdError) -> None:
        super().__init__(str(error))
        self.error = error


class CheckedResolver(AbstractResolver):
    """Resolves a host name once; the connection uses exactly the addresses that were checked here."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host name; raises if one of them must not be opened."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results = [_result(host, port, info) for info in found]
        for result in results:
            self._check(host, result["host"])
        return results

    def _check(self, host: str, address: str) -> None:
        why = "" if self._allow_private else refusal(ipaddress.ip_address(address))
        if why:
            raise _RefusedAddress(refused(host, address, why))

    async def close(self) -> None:
        """Nothing to close."""


def _result(host: str, port: int, info: Any) -> ResolveResult:
    family, _, proto, _, address = info
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address[0], port=port, family=family, proto=proto, flags=flags)


class UpstreamServer:
    """One server. Its key is sent in the header of each request and nowhere else."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        timeout_s: float = 120.0,
        allow_private: bool = True,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.base: ServerUrl = parse_base(url)
        check_literal(self.base, allow_private=allow_private)
        if not api_key.isascii() or not api_key.isprintable():
            raise TwdError(FailureCode.BAD_REQUEST, "api_key has characters that no HTTP header can carry", "api_key")
        self.timeout_s = timeout_s
        self._key = api_key
        self._resolver = resolver or CheckedResolver(allow_private=allow_private)
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The server's name in messages."""
        return self.base.authority

    async def get(self, path: str, as_type: type[T], *, limit: int = BODY_BYTES_MAX) -> T:
        """GET a JSON value of a known type."""
        async with self.open("GET", path, None) as answer:
            return self.decode(await answer.body(limit), as_type)

    async def post(self, path: str, payload: object, as_type: type[T], *, limit: int = BODY_BYTES_MAX) -> T:
        """POST a JSON value and read one back."""
        async with self.open("POST", path, payload) as answer:
            return self.decode(await answer.body(limit), as_type)

    @asynccontextmanager
    async def open(self, method: str, path: str, payload: object) -> AsyncIterator["UpstreamResponse"]:
        """Send a request; the body is read piece by piece. Leaving the context closes the connection if the body was
        not fully read.
        """
        response = await self._request(method, path, payload)
        answer = UpstreamResponse(self, response)
        try:
            await self._check(answer, response)
            yield answer
        finally:
            if answer.complete and not response.content.at_eof():
                await answer.settle()
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    def decode(self, data: bytes, as_type: type[T]) -> T:
        """Decode JSON of a known type; anything else is a BACKEND_BROKEN error."""
        try:
            return msgspec.json.decode(data, type=as_type)
        except NONSENSE as error:
            raise self.broken(f"answered with something else than expected: {error}") from None

    def broken(self, what: str) -> TwdError:
        """The error for an invalid answer."""
        return TwdError(FailureCode.BACKEND_BROKEN, f"{self.name} {what}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- inside --------------------------------------------------------------------------------

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Accept-Encoding": "identity", "User-Agent": "twd"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connector = aiohttp.TCPConnector(resolver=self._resolver, limit=_CONNECTIONS_MAX, ttl_dns_cache=30)
            connect_s = min(CONNECT_S, self.timeout_s)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, connect=None, sock_read=self.timeout_s)
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=headers,
                timeout=timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BYTES,
            )
        return self._session

    async def _request(self, method: str, path: str, payload: object) -> aiohttp.ClientResponse:
        body = None if payload is None else msgspec.json.encode(payload)
        headers = {} if body is None else {"Content-Type": "application/json"}
        for again in range(STALE_MAX, -1, -1):
            try:
                return await self._connected().request(
                    method, self.base.url(path), data=body, headers=headers, allow_redirects=False
                )
            except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
                if not (again and _was_stale(error)):
                    raise self.trouble(error, begun=False) from None
        raise AssertionError("the last try returns or raises")

    async def _check(self, answer: "UpstreamResponse", response: aiohttp.ClientResponse) -> None:
        if 300 <= response.status < 400:
            raise self.broken("wants to send us elsewhere; redirects are not followed: set the final address as url")
        if response.status >= 400:
            said = read_trouble(await answer.body(ERROR_BYTES_MAX, cut=True), self._key)
            text = f"{self.name} answered {response.status}: {said}"
            if response.status in (401, 403):
                raise KeyRefused(FailureCode.BACKEND_BROKEN, f"{text} (check api_key)")
            raise TwdError(_code_of(response.status, said), text)
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise self.broken(f"compresses its answers ({encoding[:20]}), which was not asked for")

    def trouble(self, error: BaseException, *, begun: bool) -> TwdError:
        """The error for a network failure; after the first byte a lost connection cannot be retried."""
        refused_address = getattr(error, "os_error", None)
        if isinstance(refused_address, _RefusedAddress):
            return refused_address.error
        if isinstance(error, aiohttp.SocketTimeoutError):
            return TwdError(FailureCode.DEADLINE, f"{self.name} said nothing for {self.timeout_s:g} s (timeout_s)")
        if isinstance(error, aiohttp.ClientPayloadError) or begun:
            return self.broken("broke off in the middle of its answer")
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL) or type(error) is ValueError:
            return self.broken("does not speak HTTP as it should")
        reason = "no connection in time" if isinstance(error, TimeoutError) else _reason(error)
        return TwdError(FailureCode.BACKEND_DOWN, f"{self.name} cannot be reached: {reason}")


class UpstreamResponse:
    """A response whose body has not been read yet."""

    def __init__(self, upstream: UpstreamServer, response: aiohttp.ClientResponse) -> None:
        self._upstream = upstream
        self._response = response
        self.content_type = response.content_type
        self.complete = False
        """The reader sets it when it knows that nothing useful will follow."""
        self._size = 0

    async def read(self, limit: int = STREAM_BYTES_MAX) -> bytes:
        """The bytes of the body that came since the last call; empty at the end."""
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._upstream.trouble(error, begun=True) from None
        self._size += len(piece)
        if self._size > limit:
            raise self._upstream.broken(f"sent more than {limit} bytes")
        return piece

    async def body(self, limit: int, *, cut: bool = False) -> bytes:
        """The whole body; one that is too large is an error, or is cut."""
        parts: list[bytes] = []
        while piece := await self.read(limit if not cut else STREAM_BYTES_MAX):
            parts.append(piece)
            if cut and self._size >= limit:
                break
        return b"".join(parts)[:limit]

    async def settle(self) -> None:
        """Read the few bytes that end a complete answer, so that the connection can be used again."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while not self._response.content.at_eof() and await self._response.content.readany():
                    pass
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return  # it is closed then

    def events(self) -> AsyncIterator[bytes]:
        """Yield the data of server-sent events as they come."""
        parser = EventParser()
        return _Parts(self, parser.feed, parser.finish)

    def lines(self) -> AsyncIterator[bytes]:
        """Yield lines that are not empty, as they come."""
        splitter = LineSplitter()
        return _Parts(
            self, lambda piece: [line for line in splitter.feed(piece) if line.strip()], lambda: _full(splitter.rest())
        )

    def broken(self, what: str) -> TwdError:
        """The error for an invalid body."""
        return self._upstream.broken(what)


class _Parts(AsyncIterator[bytes]):
    """Iterates over the parts of a body. It is not a generator, because an unfinished async generator costs a task to
    close.
    """

    def __init__(
        self, answer: UpstreamResponse, feed: Callable[[bytes], list[bytes]], finish: Callable[[], list[bytes]]
    ) -> None:
        self._answer = answer
        self._feed = feed
        self._finish = finish
        self._ready: deque[bytes] = deque()
        self._over = False

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            piece = await self._answer.read()
            self._over = not piece
            try:
                self._ready.extend(self._feed(piece) if piece else self._finish())
            except TooLong as error:
                raise self._answer.broken(f"sent {error}") from None
        return self._ready.popleft()


def _full(line: bytes) -> list[bytes]:
    return [line] if line.strip() else []


def _was_stale(error: BaseException) -> bool:
    """Whether a kept connection turned out to be closed by the server; all requests here are safe to repeat."""
    broken = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return broken and not isinstance(error, aiohttp.ClientConnectorError)


def _code_of(status: int, said: str) -> FailureCode:
    if status in (429, 503):
        return FailureCode.BUSY
    if status in (502, 504):
        return FailureCode.BACKEND_DOWN
    if status == 413:
        return FailureCode.TOO_LARGE
    if status in (400, 422):
        overflow = "context" in said.lower() and any(word in said.lower() for word in ("length", "size", "exceed"))
        return FailureCode.CONTEXT_OVERFLOW if overflow else FailureCode.BAD_REQUEST
    return FailureCode.BACKEND_BROKEN


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it hung up"
    inner = getattr(error, "os_error", None) or error
    number = getattr(inner, "errno", None)
    if isinstance(inner, socket.gaierror) or not number:
        return str(getattr(inner, "strerror", None) or type(inner).__name__)[:100]
    return os.strerror(number).lower()
