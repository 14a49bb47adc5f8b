"""The agent's port: no address takes all places, and who says nothing is sent away."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from twd.agent.rest.connection_limits import ConnectionLimits, GuardedSite

GREETING = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def guests() -> ConnectionLimits:
    return ConnectionLimits(first_request_s=0.05, of_one_address=3)


@pytest.fixture
async def port(guests: ConnectionLimits) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        guests.served(request.transport)
        return web.Response(text="here")

    app = web.Application()
    app.add_routes([web.get("/", answer)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await GuardedSite(runner, "127.0.0.1", 0, guests).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_who_says_nothing_is_sent_away(port: int, guests: ConnectionLimits) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GREETING[:10])
    async with asyncio.timeout(20):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()
    assert not guests._silent


async def test_who_asked_for_something_may_stay(port: int, guests: ConnectionLimits) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GREETING)
    assert b"200" in await reader.readline()
    assert not guests._silent
    writer.close()


async def test_one_address_has_so_many_places(port: int, guests: ConnectionLimits) -> None:
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for _, writer in streams:
        writer.write(GREETING)
    for reader, _ in streams:
        assert b"200" in await reader.readline()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    for _, one in (*streams, (reader, writer)):
        one.close()
