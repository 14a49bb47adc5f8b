"""The encrypted way to a worker: whole bytes for those who are known, nothing for anybody else."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.ring.fake_slices import FakeSlice
from tests.tcp import is_kept_alive, linux_only
from tests.waiting import until
from twd.net.addresses import told_host
from twd.ring.trust import client_context, make_identity
from twd.ring.tunnel import TunnelEntry, TunnelExit
from twd.stage.server import HeldSlice, StageServer
from twd.wire.base import InstanceId, ModelId

HOME, AGENT, STRANGER = make_identity("home"), make_identity("agent"), make_identity("stranger")


@pytest.fixture
async def exit_end(echo: int) -> AsyncIterator[tuple[TunnelExit, int]]:
    end = TunnelExit(AGENT, "127.0.0.1", echo)
    yield end, await end.start()
    await end.close()


async def through(entry: TunnelEntry, data: bytes) -> bytes:
    """What comes back, as long as anything does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await entry.start())
    got = bytearray()
    async with asyncio.timeout(20):
        sending = asyncio.gather(send(writer, data))
        while len(got) < len(data) and (piece := await reader.read(1 << 16)):
            got += piece
        await sending
    writer.close()
    return bytes(got)


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        writer.write(data)
        await writer.drain()
    except OSError:
        return


async def test_bytes_pass_both_ways(exit_end: tuple[TunnelExit, int]) -> None:
    end, port = exit_end
    end.admit([HOME.certificate])
    entry = TunnelEntry(HOME, "127.0.0.1", port, AGENT.certificate)
    data = bytes(range(256)) * 16384
    assert await through(entry, data) == data
    await entry.close()


async def test_who_is_admitted_later_comes_in_later(exit_end: tuple[TunnelExit, int]) -> None:
    end, port = exit_end
    before, after = (TunnelEntry(HOME, "127.0.0.1", port, AGENT.certificate) for _ in range(2))
    assert await through(before, b"hello") == b""
    end.admit([HOME.certificate, "no certificate"])
    assert await through(after, b"hello") == b"hello"
    await before.close()
    await after.close()


async def test_strangers_stay_out_and_false_workers_are_found_out(exit_end: tuple[TunnelExit, int]) -> None:
    end, port = exit_end
    end.admit([HOME.certificate])
    stranger = TunnelEntry(STRANGER, "127.0.0.1", port, AGENT.certificate)
    deceived = TunnelEntry(HOME, "127.0.0.1", port, STRANGER.certificate)
    assert await through(stranger, b"hello") == b""
    assert await through(deceived, b"hello") == b""
    await stranger.close()
    await deceived.close()
    with pytest.raises((ssl.SSLError, OSError)):
        await ask_directly(port)


async def test_who_waits_for_a_far_end_that_says_nothing_is_let_go_when_the_tunnel_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twd.ring.tunnel.REACH_S", 600.0)
    arrived: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: arrived.append(writer), "127.0.0.1", 0)
    async with silent:
        entry = TunnelEntry(HOME, "127.0.0.1", silent.sockets[0].getsockname()[1], AGENT.certificate)
        port = await entry.start()
        waiting = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: arrived, "the far end was reached")
        hardly_there = await asyncio.open_connection("127.0.0.1", port)
        await entry.close()
        for reader, writer in (waiting, hardly_there):
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        for far_writer in arrived:  # from Python 3.12 on a server waits for whoever it serves
            far_writer.close()


@linux_only
async def test_a_client_that_vanishes_is_noticed(exit_end: tuple[TunnelExit, int]) -> None:
    end, port = exit_end
    end.admit([HOME.certificate])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(HOME, AGENT.certificate))
    await until(lambda: is_kept_alive(port, writer.get_extra_info("sockname")[1]), "the way stands")
    writer.close()


async def ask_directly(port: int) -> None:
    context = client_context(STRANGER, AGENT.certificate)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"hello")
    async with asyncio.timeout(10):
        if not await reader.read(1):
            raise ConnectionResetError("nothing came")


async def test_an_address_in_brackets_is_listened_on_and_told_without_them(echo: int) -> None:
    end = TunnelExit(AGENT, "[::1]", echo)
    end.admit([HOME.certificate])
    entry = TunnelEntry(HOME, told_host("[::1]"), await end.start(), AGENT.certificate)
    assert await through(entry, b"hello") == b"hello"
    await entry.close()
    await end.close()
    held = HeldSlice(ModelId("fake"), "f", 0, 1, 2, head=False)
    stage = StageServer(InstanceId("stage.test.b"), held, FakeSlice(0, 1), AGENT)
    port = stage.listen("[::1]", 0)
    socket.create_connection((told_host("[::1]"), port), 5).close()
    stage.close()
