"""What only a real broker can do to us: die, freeze, refuse, and be somebody else."""

import asyncio
import contextlib
import signal

import pytest

from tests.bus.conftest import NatsServer
from tests.bus.nats.story import Open, Story
from tests.waiting import until
from twd.bus.base import BusError, NoResponders, RequestTimeout, SubscriptionOptions
from twd.bus.nats import link as nats_link
from twd.bus.nats.dial import Dialer
from twd.bus.nats.frames import publish_frame
from twd.bus.nats.link import MUCH_BYTES, NatsLink
from twd.bus.nats.states import BusState
from twd.wire.failures import FailureCode

pytestmark = pytest.mark.nats


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
