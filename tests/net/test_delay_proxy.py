"""The proxy that plays a distant machine: nothing is lost or reordered, and everything takes its time."""

import asyncio
from types import SimpleNamespace

import pytest

from twd.net.delay_proxy import DelayProxy


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each piece is kept back, where the clock stands still."""
    slept: list[float] = []
    monkeypatch.setattr("twd.net.delay_proxy.time", SimpleNamespace(perf_counter=lambda: 100.0, sleep=slept.append))
    return slept


async def test_bytes_come_back_whole_and_later(echo: int, slept: list[float]) -> None:
    proxy = DelayProxy("127.0.0.1", echo, 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    data = bytes(range(256)) * 8192
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(20):
        assert await reader.read(-1) == data
    assert len(slept) >= 4, "the data and the end, there and back"
    assert slept == pytest.approx([0.02] * len(slept))
    assert (proxy.bytes_there, proxy.bytes_back) == (len(data), len(data))
    writer.close()
    await proxy.close()


async def test_the_delay_may_change_while_connections_are_open(echo: int, slept: list[float]) -> None:
    proxy = DelayProxy("127.0.0.1", echo, 0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    async with asyncio.timeout(20):
        for delay_s in (0.0, 0.02, 0.0):
            proxy.delay_s = delay_s
            slept.clear()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert slept == pytest.approx([delay_s, delay_s] if delay_s else [])
    writer.close()
    await proxy.close()


async def test_a_target_that_is_away_hangs_up_and_closing_ends_all(echo: int) -> None:
    nobody = DelayProxy("127.0.0.1", 1, 0.0)
    reader, _ = await asyncio.open_connection("127.0.0.1", await nobody.start())
    async with asyncio.timeout(10):
        assert await reader.read(1) == b""
    await nobody.close()
    proxy = DelayProxy("127.0.0.1", echo, 0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    writer.write(b"x")
    async with asyncio.timeout(10):
        assert await reader.read(1) == b"x"
        await proxy.close()
        assert await reader.read(1) == b""
