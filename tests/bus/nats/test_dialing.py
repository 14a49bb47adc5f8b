"""Who is at the other end: no broker, one that comes later, one that refuses, or no broker at all."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.bus.conftest import NatsServer
from tests.bus.nats.story import Open
from tests.waiting import until
from twd.bus.address import BusAddress
from twd.bus.base import BusError
from twd.bus.nats import link as nats_link
from twd.bus.nats.bus import NatsBus
from twd.bus.nats.link import LinkError, NatsLink
from twd.wire.failures import FailureCode

pytestmark = pytest.mark.nats


async def test_no_broker_at_all(nats_server: NatsServer) -> None:
    nats_server.kill()
    with pytest.raises(BusError, match=f"no broker answers at nats://127.0.0.1:{nats_server.port}") as absent:
        await NatsBus.connect(nats_server.address, wait_s=0.2)
    assert absent.value.code is FailureCode.BUS_DOWN


async def test_a_broker_that_comes_a_little_later_is_waited_for(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_vain = asyncio.Event()

    async def open_link(*arguments: Any) -> NatsLink:
        try:
            return await nats_link.open_link(*arguments)
        except LinkError:
            in_vain.set()
            raise

    monkeypatch.setattr("twd.bus.nats.dial.open_link", open_link)
    nats_server.kill()
    connecting = asyncio.gather(NatsBus.connect(nats_server.address, wait_s=20))
    async with asyncio.timeout(10):
        await in_vain.wait()
    nats_server.start()
    (bus,) = await connecting
    assert bus.connected
    await bus.close()


@pytest.mark.parametrize("urls", ["nats://127.0.0.1:1,127.0.0.1:{}", "nats://127.0.0.1:{},127.0.0.1:1"])
async def test_of_several_urls_any_will_do(nats_server: NatsServer, urls: str) -> None:
    bus = await NatsBus.connect(BusAddress(urls.format(nats_server.port)))
    await bus.flush()
    assert bus.connected
    await bus.close()


TOKEN_CONFIG = 'authorization { token: "right" }'


async def test_a_wrong_token_is_told_at_once_and_not_shown(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    (tmp_path / "server.conf").write_text(TOKEN_CONFIG)
    server.start()
    try:
        for address in (
            BusAddress(server.url, token="wrong"),
            BusAddress(f"nats://wrong@127.0.0.1:{server.port}"),
            server.address,
        ):
            with pytest.raises(BusError, match="refuses to let us in") as refused:
                await NatsBus.connect(address, wait_s=60)
            assert refused.value.code is FailureCode.UNAUTHENTICATED
            assert "wrong" not in str(refused.value) + repr(refused.value.failure)
        await (await NatsBus.connect(BusAddress(server.url, token="right"))).close()
    finally:
        server.kill()


@pytest.mark.parametrize(
    "speech",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"INFO\r\n",
        b"INFO []\r\n",
        b"INFO {nonsense\r\n",
        b"\xff" * 200_000,
        b"INFO {}\r\nxx\r\n",
    ],
)
async def test_a_stranger_on_the_port_is_told(speech: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(speech)
        await reader.read()
        writer.close()

    stranger = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    try:
        with pytest.raises(BusError):
            await NatsBus.connect(BusAddress(f"nats://127.0.0.1:{port}"), wait_s=0.1)
    finally:
        stranger.close()


async def test_a_stranger_that_speaks_nonsense_later_is_left(nats_server: NatsServer, open_bus: Open) -> None:
    lines = [b"-ERR \r\n", b"-ERR 'Whatever'\r\n", b"MSG a 1 x\r\n", b"nonsense\r\n", b""]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1000, "headers": true}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            elif line.startswith(b"PUB go"):
                said = lines.pop(0)
                writer.write(said)
                if said:
                    await reader.read()  # until it is left
                break
        writer.close()

    stranger = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    bus = await open_bus(BusAddress(f"nats://127.0.0.1:{port}"))
    told: list[int] = []
    bus.on_back(lambda: told.append(bus.stats.reconnects))
    for reconnects in range(1, 6):
        bus.publish("go", b"")
        await until(lambda: bus.stats.reconnects == reconnects)  # noqa: B023 - awaited before it changes
    await until(lambda: told == [1, 2, 3, 4, 5])
    stranger.close()


async def test_subjects_and_headers_that_are_no_text_harm_nobody(nats_server: NatsServer, open_bus: Open) -> None:
    bus, heard = await open_bus(), list[str]()
    await bus.subscribe(">", lambda message: heard.append(message.reply))
    _, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    writer.write(b"PUB \xff\xfe _INBOX.\xff 1\r\nx\r\n" + b"PUB ok _INBOX.> 1\r\nx\r\n")
    writer.write(b"HPUB h 12 13\r\nNATS/1.0\r\n\xff\xffx\r\n" + b"PUB end _INBOX.e 0\r\n\r\n")
    await until(lambda: "_INBOX.e" in heard)
    assert bus.connected
    writer.close()


@pytest.mark.parametrize("url", ["http://x", "nats://", "nats://h:99999", "ws://h:1", "nats://h:p"])
def test_what_is_no_broker_url_is_refused(url: str) -> None:
    with pytest.raises(BusError):
        BusAddress(url)


def test_an_address_shows_nothing_secret() -> None:
    address = BusAddress("nats://me:secret@h:1,tls://token@h:2,h:3", token="hidden", password="hidden")
    assert address.shown == "nats://h:1, tls://h:2, nats://h:3"
    assert "hidden" not in repr(address)


async def test_a_missing_key_file_is_told_before_connecting() -> None:
    with pytest.raises(BusError, match=r"bus\.nkey_file"):
        await NatsBus.connect(BusAddress("nats://127.0.0.1:1", nkey_file="/nowhere/seed"))
