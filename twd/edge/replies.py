"""Answers on their way out: JSON, error envelopes, streams."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from twd.edge.errors import anthropic_envelope, envelope, retry_after
from twd.wire.failures import Failure

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_encoder = msgspec.json.Encoder()


def json_reply(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Any msgspec value as a JSON response."""
    return web.Response(body=_encoder.encode(payload), status=status, content_type="application/json", headers=headers)


def failure_reply(failure: Failure, path: str, status: int | None = None) -> web.Response:
    """A failure as a JSON response with its status, in the shape that the path's clients read."""
    headers = {}
    wait = retry_after(failure)
    if wait is not None:
        headers["Retry-After"] = str(wait)
    if failure.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="twd"'
    shape = anthropic_envelope if path.startswith("/v1/messages") else envelope
    return json_reply(shape(failure, status), status or failure.status, headers)


async def open_stream(request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
    """Send the head of a stream; what follows is written by the caller."""
    response = web.StreamResponse(headers={**STREAM_HEADERS, **headers})
    await response.prepare(request)
    return response


def hang_up(request: web.Request) -> None:
    """Drop a connection at once: what waits to be sent is thrown away."""
    if request.transport is not None:
        request.transport.abort()
