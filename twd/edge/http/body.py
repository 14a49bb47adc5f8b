"""Reads a request's body and counts its bytes while it arrives."""

import asyncio

import aiohttp
from aiohttp import web

from twd.wire.failures import FailureCode, TwdError


class SlowClient(TwdError):
    """The body did not arrive in time; answered with 408."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(FailureCode.BAD_REQUEST, f"the request's body did not come within {timeout_s:g} s")


async def read_body(request: web.Request, limit: int, timeout_s: float) -> bytes:
    """The whole body, at most `limit` bytes, with or without a Content-Length header."""
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    content = request.content
    if content.is_eof() and content.total_bytes <= limit:
        return await content.read()  # usually the whole body is here already: no wait
    try:
        async with asyncio.timeout(timeout_s):
            return await _joined(content, limit)
    except TimeoutError:
        raise SlowClient(timeout_s) from None
    except web.RequestPayloadError as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"the body cannot be read: {error}"[:300]) from None


async def _joined(content: aiohttp.StreamReader, limit: int) -> bytes:
    """All pieces of a body that is still on its way."""
    pieces: list[bytes] = []
    size = 0
    async for piece in content.iter_any():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(limit: int) -> TwdError:
    return TwdError(FailureCode.TOO_LARGE, f"the body is larger than {limit} bytes (edge.max_body_size)")
