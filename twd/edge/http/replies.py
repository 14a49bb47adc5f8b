"""Sends replies: JSON, errors, streams."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
from aiohttp import web

from twd.edge.http.errors import anthropic_envelope, envelope, retry_after
from twd.wire.failures import Failure

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
STALL_S = 60.0
"""A client that reads nothing for this many seconds is disconnected."""
_LARGE_BYTES = 1 << 16
_encoder = msgspec.json.Encoder()


def json_reply(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response with any msgspec value."""
    return web.Response(body=_encoder.encode(payload), status=status, content_type="application/json", headers=headers)


def failure_reply(failure: Failure, path: str, status: int | None = None) -> web.Response:
    """A failure as a JSON response with its status, in the form of the path's API."""
    headers = {}
    wait = retry_after(failure)
    if wait is not None:
        headers["Retry-After"] = str(wait)
    if failure.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="twd"'
    shape = anthropic_envelope if path.startswith("/v1/messages") else envelope
    return json_reply(shape(failure, status), status or failure.status, headers)


async def open_stream(request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
    """Send the head of a stream; the caller writes the rest."""
    response = web.StreamResponse(headers={**STREAM_HEADERS, **headers})
    await response.prepare(request)
    return response


async def write(request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    """Send a piece; a client that does not read is disconnected."""
    await _unless_stalled(request, response.write(piece))


async def end_stream(request: web.Request, response: web.StreamResponse) -> None:
    """End a stream; a client that does not read is disconnected."""
    await _unless_stalled(request, response.write_eof())


async def _unless_stalled(request: web.Request, sending: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(STALL_S):
            await sending
    except TimeoutError:
        hang_up(request)
        raise ConnectionResetError(f"the client took nothing for {STALL_S:g} s") from None


async def sent_if_large(request: web.Request, reply: web.StreamResponse) -> web.StreamResponse:
    """Send a large body piece by piece: aiohttp would wait forever for a client that does not read."""
    body = reply.body if isinstance(reply, web.Response) else None
    if not isinstance(body, bytes) or len(body) <= _LARGE_BYTES or request.method == "HEAD":
        return reply
    stream = web.StreamResponse(status=reply.status, headers=reply.headers)
    stream.content_length = len(body)
    await stream.prepare(request)
    for start in range(0, len(body), _LARGE_BYTES):
        await write(request, stream, body[start : start + _LARGE_BYTES])
    await end_stream(request, stream)
    return stream


def hang_up(request: web.Request) -> None:
    """Close a connection at once; data that waits to be sent is dropped."""
    if request.transport is not None:
        request.transport.abort()
