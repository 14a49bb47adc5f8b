"""What only a real broker can do to us: die, freeze, refuse, and be somebody else."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bus.conftest import NatsServer
from tests.waiting import until
from twd.bus.address import BusAddress
from twd.bus.base import BusError, NoResponders, RequestTimeout, SubscriptionOptions
from twd.bus.nats import link as nats_link
from twd.bus.nats.bus import NatsBus
from twd.bus.nats.dial import Dialer
from twd.bus.nats.frames import publish_frame
from twd.bus.nats.link import MUCH_BYTES, LinkError, NatsLink
from twd.bus.nats.states import BusState
from twd.wire.failures import FailureCode

pytestmark = pytest.mark.nats

Open = Callable[..., Awaitable[NatsBus]]


class Story:
    """What a connection told about itself."""

    def __init__(self) -> None:
        self.events: list[tuple[BusState, str]] = []

    def __call__(self, state: BusState, detail: str) -> None:
        self.events.append((state, detail))

    @property
    def states(self) -> list[BusState]:
        return [state for state, _ in self.events]


@pytest.fixture
async def open_bus(nats_server: NatsServer) -> AsyncIterator[Open]:
    opened: list[NatsBus] = []

    async def open_one(address: BusAddress | None = None, **options: Any) -> NatsBus:
        bus = await NatsBus.connect(address or nats_server.address, **options)
        opened.append(bus)
        return bus

    yield open_one
    for bus in opened:
        await bus.close()


async def test_messages_that_gather_are_handled_together(open_bus: Open) -> None:
    one, slow = await open_bus(name="one"), await open_bus(name="slow", gather_s=600.0)
    heard: list[int] = []
    await slow.subscribe("a", lambda message: heard.append(int(message.data)))
    one.publish("a", b"0")
    await until(lambda: heard == [0])
    for number in range(1, 20):
        one.publish("a", str(number).encode())
        await one.flush()  # the broker has handed each of them on before the next
    assert heard == [0]
    assert slow._link is not None
    slow._gather_s = 0.0
    slow._link._read_again()  # as it does by itself when the time is over
    await until(lambda: len(heard) == 20)
    assert heard == list(range(20))


async def test_who_leaves_while_he_subscribes_leaves_nothing_behind(open_bus: Open) -> None:
    bus = await open_bus()
    asking = asyncio.gather(
        bus.subscribe_all([SubscriptionOptions("a", print), SubscriptionOptions("b", print)]), return_exceptions=True
    )
    await asyncio.sleep(0)
    assert len(bus._subscriptions.listeners) == 2
    asking.cancel()
    await until(lambda: not bus._subscriptions.listeners)


async def test_who_gathers_reads_on_where_much_comes_or_an_answer_is_awaited(open_bus: Open) -> None:
    slow = await open_bus(name="slow", gather_s=600.0)
    heard: list[int] = []
    await slow.subscribe("a", lambda message: heard.append(len(message.data)))
    link, number = slow._link, max(slow._subscriptions.listeners)
    assert link is not None

    def come(size: int) -> None:
        link._client.take(b"MSG a %d %d\r\n%s\r\n" % (number, size, b"x" * size))

    def resting() -> bool:
        return link._resting

    come(MUCH_BYTES)
    assert not resting()
    await slow.subscribe("b", lambda message: None)
    asking = asyncio.gather(slow.request("b", b"", timeout_s=60), return_exceptions=True)
    await until(lambda: slow._questions.waiting)
    come(1)
    assert not resting()
    asking.cancel()
    await until(lambda: not slow._questions.waiting)
    come(2)
    assert resting()
    link._read_again()
    await until(lambda: heard == [MUCH_BYTES, 1, 2])


async def test_a_killed_broker_is_missed_by_one_that_gathers(nats_server: NatsServer, open_bus: Open) -> None:
    one, slow = await open_bus(name="one"), await open_bus(name="slow", gather_s=0.05)
    heard: list[bytes] = []
    await slow.subscribe("a", lambda message: heard.append(message.data))
    one.publish("a", b"before")
    await until(lambda: bool(heard))
    nats_server.kill()
    await until(lambda: not one.connected and not slow.connected)
    nats_server.start()
    await until(lambda: one.connected and slow.connected)
    one.publish("a", b"after")
    await until(lambda: heard == [b"before", b"after"])


async def test_a_killed_broker_is_missed_and_found_again(nats_server: NatsServer, open_bus: Open) -> None:
    story, heard = Story(), list[bytes]()
    one, other = await open_bus(name="one", on_event=story), await open_bus(name="other")
    await other.subscribe("a", lambda message: heard.append(message.data))
    leases = await one.leases("here", 30)
    await leases.put("k", b"1")

    nats_server.kill()
    await until(lambda: not one.connected and not other.connected)
    one.publish("a", b"kept")
    nats_server.start()
    await until(lambda: one.connected and other.connected)
    one.publish("a", b"sent")

    await until(lambda: b"sent" in heard)
    assert heard in ([b"kept", b"sent"], [b"sent"])  # the reader may have come back after the kept one passed
    assert one.stats.reconnects == 1
    assert story.states[:2] == [BusState.CONNECTED, BusState.LOST]
    assert story.states[-1] is BusState.CONNECTED
    assert await leases.entries() == []
    await leases.put("k", b"2")
    assert [entry.value for entry in await leases.entries()] == [b"2"]


async def test_what_is_published_while_the_broker_is_away_is_kept_in_order(
    nats_server: NatsServer, open_bus: Open
) -> None:
    bus, heard = await open_bus(), list[bytes]()
    await bus.subscribe("a", lambda message: heard.append(message.data))
    nats_server.kill()
    await until(lambda: not bus.connected)
    for i in range(1000):
        bus.publish("a", b"%d" % i)
    nats_server.start()
    await until(lambda: len(heard) == 1000)
    assert heard == [b"%d" % i for i in range(1000)]


async def test_what_is_subscribed_and_closed_meanwhile_holds_afterwards(
    nats_server: NatsServer, open_bus: Open
) -> None:
    bus, heard = await open_bus(), list[str]()
    old = await bus.subscribe("old", lambda message: heard.append("old"))
    nats_server.kill()
    await until(lambda: not bus.connected)
    await bus.subscribe("new", lambda message: heard.append("new"))
    await old.close()
    nats_server.start()
    await until(lambda: bus.connected)
    bus.publish("old", b"")
    bus.publish("new", b"")
    await until(lambda: bool(heard))
    assert heard == ["new"]


async def test_who_leaves_while_subscribing_leaves_nothing_behind(nats_server: NatsServer, open_bus: Open) -> None:
    bus, heard = await open_bus(), list[bytes]()
    nats_server.signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bus.subscribe("a", lambda message: heard.append(message.data))
    nats_server.signal(signal.SIGCONT)
    bus.publish("a", b"1")
    await bus.flush()
    assert heard == []
    assert not bus._subscriptions.listeners


async def test_a_full_outbox_forgets_the_oldest_and_counts(nats_server: NatsServer, open_bus: Open) -> None:
    bus, heard = await open_bus(outbox_bytes=100_000), list[int]()
    await bus.subscribe("twd.v1.draft.proposed.*", lambda message: heard.append(int(message.data)))
    nats_server.kill()
    await until(lambda: not bus.connected)
    for i in range(1000):
        bus.publish(f"twd.v1.draft.proposed.s{i}", b"%01000d" % i)
    nats_server.start()
    await until(lambda: 999 in heard)
    assert heard == list(range(heard[0], 1000))
    assert bus.stats.dropped == 1000 - len(heard) > 800
    assert bus.stats.dropped_by_subject == {"twd.v1.draft.proposed": bus.stats.dropped}


async def test_a_frozen_broker_is_noticed_even_under_load(nats_server: NatsServer, open_bus: Open) -> None:
    story = Story()
    bus = await open_bus(on_event=story, ping_interval_s=0.1, outbox_bytes=1_000_000)
    nats_server.signal(signal.SIGSTOP)
    for _ in range(64):  # more than the kernel's buffers and the connection's own take
        bus.publish("a", bytes(1_000_000 - 100))
    await until(lambda: not bus.connected)
    assert bus.stats.dropped > 0
    assert (BusState.LOST, "nats: stale connection") in story.events
    nats_server.signal(signal.SIGCONT)
    await until(lambda: bus.connected)
    await bus.flush()


async def test_a_connection_that_is_full_to_the_byte_holds_up_nobody(nats_server: NatsServer, open_bus: Open) -> None:
    bus = await open_bus()
    link = bus._link
    assert link is not None
    nats_server.signal(signal.SIGSTOP)
    while not link._buffered():  # the kernel takes all that it can
        bus.publish("a", bytes(100_000))
        bus.push()
    left = nats_link.WRITE_BUFFER_BYTES - link._buffered()
    overhead = len(publish_frame("a", "", bytes(left))) - left
    bus.publish("a", bytes(left - overhead))
    bus.push()
    assert link._buffered() == nats_link.WRITE_BUFFER_BYTES
    for _ in range(3):
        bus.publish("a", bytes(100_000))
        await asyncio.sleep(0)
    nats_server.signal(signal.SIGCONT)
    await bus.flush()
    assert bus.stats.dropped == 0


async def test_a_question_to_an_absent_broker_waits_its_time_and_no_longer(
    nats_server: NatsServer, open_bus: Open
) -> None:
    bus = await open_bus()
    nats_server.kill()
    await until(lambda: not bus.connected)
    with pytest.raises(RequestTimeout):
        await bus.request("a", b"", timeout_s=0.1)
    with pytest.raises(BusError):
        await bus.flush(0.1)
    asking = asyncio.gather(bus.request("a", b"", timeout_s=20), return_exceptions=True)
    nats_server.start()
    assert isinstance((await asking)[0], NoResponders)


async def test_inquiries_wait_for_the_broker_and_end_with_the_connection(
    nats_server: NatsServer, open_bus: Open
) -> None:
    bus, told = await open_bus(), list[bytes | BusError]()
    await bus.subscribe("mute", lambda message: None)
    bus.inquire("mute", b"", told.append, timeout_s=60)
    nats_server.kill()
    await until(lambda: len(told) == 1 and not bus.connected)
    assert isinstance(told[0], BusError)
    await bus.subscribe("echo", lambda message: bus.publish(message.reply, message.data))
    bus.inquire("echo", b"again", told.append, timeout_s=60)
    nats_server.start()
    await until(lambda: len(told) == 2)
    assert told[1] == b"again"
    nats_server.kill()
    await until(lambda: not bus.connected)
    bus.inquire("echo", b"", told.append, timeout_s=0.1)
    await until(lambda: len(told) == 3)
    assert isinstance(told[2], RequestTimeout)
    nats_server.start()


async def test_a_question_on_its_way_ends_with_the_connection(nats_server: NatsServer, open_bus: Open) -> None:
    bus = await open_bus()
    await bus.subscribe("mute", lambda message: nats_server.kill())
    with pytest.raises(BusError) as broken:
        await bus.request("mute", b"", timeout_s=60)
    assert broken.value.code is FailureCode.BUS_DOWN


async def test_closing_while_the_broker_is_away_takes_no_time(nats_server: NatsServer, open_bus: Open) -> None:
    bus = await open_bus()
    nats_server.kill()
    await until(lambda: not bus.connected)
    bus.publish("a", b"")
    async with asyncio.timeout(2):
        await bus.close()
    assert bus.stats.dropped == 1


async def test_closing_ends_all_even_where_a_cancellation_gets_lost(
    nats_server: NatsServer, open_bus: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf_once(self: Dialer, failed: object) -> NatsLink:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await self.within(20)

    monkeypatch.setattr(Dialer, "for_ever", deaf_once)
    bus = await open_bus()
    nats_server.kill()
    await until(lambda: not bus.connected)
    nats_server.start()
    async with asyncio.timeout(20):
        await bus.close()
    assert not bus.connected
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "bus:twd:keep"]


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
    for reconnects in range(1, 6):
        bus.publish("go", b"")
        await until(lambda: bus.stats.reconnects == reconnects)  # noqa: B023 - awaited before it changes
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
