"""The seeder's HTTP API: manifests, bitfields, pieces, byte ranges, and a stream of new units."""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from twd.net.addresses import bare_host
from twd.pieces.bitmap import Bitmap
from twd.pieces.manifest import Manifest, encode_manifest
from twd.pieces.source import News
from twd.swarm.door import Door
from twd.swarm.library import Library
from twd.swarm.pace import Pace
from twd.swarm.sending import TransferSlots, send_range
from twd.swarm.shared import Shared
from twd.wire.failures import Failure, FailureCode, TwdError

ROOT: Final = "/v1/swarm"
SLOTS: Final = 4
CLOSING_S: Final = 1.0
FOLLOWERS_MAX: Final = 512
log = logging.getLogger("twd.swarm.seeder")


class Begin(msgspec.Struct, frozen=True):
    """The first line of a news stream: the whole bitmap."""

    units: int
    bits: str
    """The bitmap in base64."""
    coming: list[int] = []


class Seeder:
    """The HTTP server for one library; `sent` is called with the number of bytes sent."""

    def __init__(
        self,
        library: Library,
        upload_mib_s: float = 0.0,
        sent: Callable[[Shared, int], None] | None = None,
        make: Callable[[str], Awaitable[Manifest]] | None = None,
    ) -> None:
        """`make`: returns the manifest of the file with this quick hash, which may need to read the whole file."""
        self._make = make
        self._library = library
        self._pace = Pace(upload_mib_s)
        self._slots = TransferSlots(SLOTS)
        self._sent = sent or (lambda shared, count: None)
        self._runners: list[web.AppRunner] = []
        self._followers = 0
        self._began = time.monotonic()

    async def listen(self, host: str, port: int, door: Door, ssl: Any = None) -> int:
        """Open a port; returns its number."""
        app = web.Application(middlewares=[_middleware(door)], client_max_size=1)
        for prefix in ("", f"{ROOT}/{{root}}"):
            app.router.add_get(f"{prefix}/manifest", self._manifest)
            app.router.add_get(f"{prefix}/bitfield", self._bitfield)
            app.router.add_get(f"{prefix}/pieces/{{piece}}", self._piece)
            app.router.add_get(f"{prefix}/health", self._health)
        app.router.add_get(ROOT, self._list)
        app.router.add_get(f"{ROOT}/by-hash/{{hash}}", self._by_hash)
        app.router.add_get(f"{ROOT}/{{root}}/file", self._file)
        app.router.add_get(f"{ROOT}/{{root}}/file/{{name}}", self._file)
        app.router.add_get(f"{ROOT}/{{root}}/have", self._have)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSING_S)
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, bare_host(host), port, ssl_context=ssl).start()
        except OSError as error:
            text = f"the seeder cannot listen on {host}:{port}: {error.strerror}. Give another --port (swarm.port)"
            raise TwdError(FailureCode.BAD_REQUEST, text, "swarm.port") from None
        return int(runner.addresses[0][1])

    async def close(self) -> None:
        """Close all ports."""
        for runner in self._runners:
            await runner.cleanup()

    # -- what it tells -----------------------------------------------------------------------------

    def _of(self, request: web.Request) -> Shared:
        return self._library.get(request.match_info.get("root", ""))

    async def _list(self, request: web.Request) -> web.Response:
        return _json({"files": [_facts(shared) for shared in self._library]})

    async def _manifest(self, request: web.Request) -> web.Response:
        return web.Response(body=self._of(request).manifest_bytes, content_type="application/json")

    async def _by_hash(self, request: web.Request) -> web.Response:
        """Return the manifest for a quick hash; a model without a manifest is read first."""
        if self._make is None:
            raise TwdError(FailureCode.MODEL_NOT_FOUND, "here files are asked for by their roots alone")
        made = await asyncio.shield(self._make(request.match_info["hash"]))
        return web.Response(body=encode_manifest(made), content_type="application/json")

    async def _bitfield(self, request: web.Request) -> web.Response:
        return _json({"have": self._of(request).pieces()})

    async def _health(self, request: web.Request) -> web.Response:
        if not len(self._library):
            return _json({"status": "starting"}, 503)
        shared = self._of(request)
        have, total = len(shared.pieces()), len(shared.manifest.pieces)
        told = {
            "status": "ok",
            "model": shared.manifest.model,
            "filename": shared.manifest.filename,
            "total_pieces": total,
            "have_pieces": have,
            "completion_pct": round(100 * shared.have.count / max(1, len(shared.have)), 1),
            "uptime_seconds": round(time.monotonic() - self._began, 1),
        }
        return _json(told)

    async def _have(self, request: web.Request) -> web.StreamResponse:
        shared = self._of(request)
        if self._followers >= FOLLOWERS_MAX:
            raise TwdError(FailureCode.BUSY, "too many follow here already; ask again in a moment")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        self._followers += 1
        try:
            first = True
            async for news in shared.follow(hashes="hashes" in request.query):
                await response.write(_line(shared, news, first))
                first = False
        finally:
            self._followers -= 1
        await response.write_eof()
        return response

    # -- what it gives ---------------------------------------------------------------------------

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Send a file. BitTorrent clients add the file name to the URL of a web seed."""
        shared = self._of(request)
        name = shared.manifest.filename
        if request.match_info.get("name", name) != name:
            raise TwdError(FailureCode.MODEL_NOT_FOUND, f"the file with this root is called {name}")
        begin, end = _range(request, shared.manifest.total_size)
        return await self._give(request, shared, begin, end)

    async def _piece(self, request: web.Request) -> web.StreamResponse:
        shared, told = self._of(request), request.match_info["piece"]
        size = shared.manifest.piece_size
        if not told.isdecimal() or len(told) > 9 or int(told) * size >= shared.manifest.total_size:
            raise TwdError(
                FailureCode.MODEL_NOT_FOUND, f"there is no piece {told[:20]!r} of {shared.manifest.filename}"
            )
        base, total = int(told) * size, shared.manifest.total_size
        begin, end = _range(request, min(size, total - base))
        return await self._give(request, shared, base + begin, base + end, base, min(size, total - base))

    async def _give(
        self, request: web.Request, shared: Shared, begin: int, end: int, base: int = 0, whole: int = 0
    ) -> web.StreamResponse:
        """`base` and `whole`: start and length of the part that a Range header refers to, if not the whole file."""
        whole = whole or shared.manifest.total_size
        if not shared.has_range(begin, end):
            text = f"these bytes of {shared.manifest.filename} are not here yet; ask another seeder"
            raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
        partly = "Range" in request.headers
        response = web.StreamResponse(status=206 if partly else 200)
        response.content_type = "application/octet-stream"
        response.headers["Accept-Ranges"] = "bytes"
        response.headers["ETag"] = f'"{shared.name}"'
        response.content_length = end - begin
        if partly:
            response.headers["Content-Range"] = f"bytes {begin - base}-{end - base - 1}/{whole}"
        async with self._slots.one() as slot:
            if shared.closed:
                raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{shared.manifest.filename} is shared no more")
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client hung up")
            await response.prepare(request)
            if request.method != "HEAD":
                with shared.in_use():
                    self._sent(shared, await send_range(request, shared, begin, end, self._pace, slot))
                # sendfile bypasses aiohttp's writer, which still expects these bytes
                response._payload_writer.length = 0  # type: ignore[union-attr]
        await response.write_eof()
        return response


def _line(shared: Shared, news: News, first: bool) -> bytes:
    if not first:
        return msgspec.json.encode(news) + b"\n"
    bits = Bitmap.of(len(shared.have), news.have)
    return msgspec.json.encode(Begin(len(bits), base64.b64encode(bits.data).decode(), news.coming)) + b"\n"


def _facts(shared: Shared) -> dict[str, object]:
    manifest = shared.manifest
    return {
        "root": shared.name,
        "filename": manifest.filename,
        "model": manifest.model,
        "total_size": manifest.total_size,
        "have": shared.have.count,
        "units": len(shared.have),
    }


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """Return the requested range; raises 416 if it does not exist."""
    try:
        asked = request.http_range
    except ValueError:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"}) from None
    begin, end, _ = asked.indices(size)
    if begin >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return begin, end


def _json(content: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json", status=status)


def _error(failure: Failure, status: int = 0) -> web.Response:
    told = {"code": failure.code, "message": failure.message}
    headers = {"Retry-After": "1"} if failure.code is FailureCode.BUSY else {}
    reply = _json({"error": told}, status or failure.status)
    reply.headers.update(headers)
    return reply


def _middleware(door: Door) -> Middleware:
    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            door.check(request.headers, request.remote or "")
            return await handler(request)
        except TwdError as error:
            return _error(error.failure)
        except web.HTTPException as error:
            text = f"{request.method} {request.path[:200]}: {error.reason}"
            reply = _error(Failure(code=FailureCode.BAD_REQUEST, message=text), error.status)
            if "Content-Range" in error.headers:
                reply.headers["Content-Range"] = error.headers["Content-Range"]
            return reply
        except asyncio.CancelledError:
            raise
        except (ConnectionError, TimeoutError):  # the client disconnected or read nothing for too long
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        except Exception as error:  # logged; the client gets no details
            log.exception("fault while answering %s %s", request.method, request.path)
            text = f"{type(error).__name__} inside the seeder; its log has the story"
            return _error(Failure(code=FailureCode.INTERNAL, message=text))

    return around
