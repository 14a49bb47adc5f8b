"""Asks a program over HTTP whether it works, with a plain socket, so that a supervisor needs no HTTP library."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from twd.net.tls import unverified_context

ANSWER_S: Final = 3.0
LINE_BYTES: Final = 4096


async def ask_health(url: str, timeout_s: float = ANSWER_S) -> tuple[bool, str]:
    """Return whether a GET is answered with status 200, and what came instead, in words."""
    try:
        async with asyncio.timeout(timeout_s):
            status = await _status(url)
    except TimeoutError:
        return False, f"it does not answer within {timeout_s:g} s"
    except (OSError, ValueError):
        return False, "it does not listen yet"
    return status == 200, "it loads" if status == 503 else f"it answers with status {status}"


async def answers(url: str, timeout_s: float = ANSWER_S) -> bool:
    """Return whether any HTTP status comes back; a program that still loads answers, too."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _status(url) > 0
    except (OSError, ValueError, TimeoutError):
        return False


async def status_of(url: str, timeout_s: float = ANSWER_S) -> int:
    """Return the HTTP status of a GET; 0 if none comes within `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _status(url)
    except (OSError, ValueError, TimeoutError):
        return 0


async def _status(url: str) -> int:
    place = urlsplit(url)
    # Only our own processes on this machine are asked, and nothing secret is sent: any certificate will do.
    tls = unverified_context() if place.scheme == "https" else None
    reader, writer = await asyncio.open_connection(place.hostname, place.port or 80, limit=LINE_BYTES, ssl=tls)
    try:
        writer.write(f"GET {place.path or '/'} HTTP/1.0\r\nHost: {place.netloc}\r\n\r\n".encode("ascii"))
        await writer.drain()
        words = (await reader.readline()).split()
        return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else 0
    finally:
        writer.close()
