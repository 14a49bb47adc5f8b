"""Whether a program works, asked over HTTP with nothing but a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from twd.process.health import ask_health


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health"


@pytest.mark.parametrize(
    ("answer", "works", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", True, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False, "it loads"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", False, "status 401"),
        (b"SSH-2.0-OpenSSH\r\n", False, "status 0"),
        (b"HTTP/1.1 many words\r\n", False, "does not listen"),
        (b"", False, "status 0"),
    ],
)
async def test_what_comes_back(answer: bytes, works: bool, words: str) -> None:
    async with answering(answer) as url:
        found, told = await ask_health(url)
    assert found is works
    assert works or words in told


async def test_nobody_and_somebody_silent() -> None:
    assert await ask_health("http://127.0.0.1:9/health") == (False, "it does not listen yet")
    forever = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forever.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health"
        works, told = await ask_health(url, timeout_s=0.2)
        assert (works, told) == (False, "it does not answer within 0.2 s")
        forever.set()
