"""What every bus does, on the in-memory double and on a real nats-server alike."""

import asyncio
import itertools

import pytest

from tests.bus.conftest import Connect
from tests.bus.ears import Ear, hear_end
from tests.waiting import until, until_it_answers
from twd.bus.base import PAYLOAD_BYTES_MAX, BusError, BusMessage, SubscriptionOptions
from twd.wire.failures import FailureCode
from twd.wire.routes import WhenFull


async def test_a_message_arrives_as_it_was_sent(connect: Connect) -> None:
    one, other = await connect("one"), await connect("other")
    ear = Ear()
    await other.subscribe("a.b", ear)
    one.publish("a.b", bytes(range(256)), reply="_INBOX.x.1")
    await until(lambda: bool(ear.messages))
    assert ear.messages == [BusMessage("a.b", bytes(range(256)), "_INBOX.x.1")]


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("a.b", ["a.b"]),
        ("a.*", ["a.b", "a.c"]),
        ("a.>", ["a.b", "a.c", "a.b.c"]),
        ("*.b", ["a.b"]),
        ("*.*.c", ["a.b.c"]),
        (">", ["a", "a.b", "a.c", "a.b.c"]),
    ],
)
async def test_wildcards(connect: Connect, pattern: str, heard: list[str]) -> None:
    bus = await connect("one")
    ear = Ear()
    await bus.subscribe(pattern, ear)
    for subject in ("a", "a.b", "a.c", "a.b.c"):
        bus.publish(subject, b"")
    await hear_end(bus, bus)
    assert [s for s in ear.subjects if s != "the.end"] == heard


@pytest.mark.parametrize("subject", ["", ".", "a.", ".a", "a..b", "a b", "a\r\nPUB b 0", "a.*", "a.>", "a.b>"])
async def test_what_is_no_subject_is_refused(connect: Connect, subject: str) -> None:
    bus = await connect("one")
    with pytest.raises(BusError):
        bus.publish(subject, b"")
    with pytest.raises(BusError):
        await bus.request(subject, b"")


@pytest.mark.parametrize("pattern", ["", "a.", "a..b", "a b", "a.>.b", "a*", "a\r\nSUB b 1"])
async def test_what_is_no_pattern_is_refused(connect: Connect, pattern: str) -> None:
    bus = await connect("one")
    with pytest.raises(BusError):
        await bus.subscribe(pattern, Ear())


async def test_a_queue_name_with_spaces_is_refused(connect: Connect) -> None:
    with pytest.raises(BusError):
        await (await connect("one")).subscribe("a", Ear(), queue="b 7\r\n")


async def test_each_message_goes_to_one_member_of_a_group_and_to_everybody_else(connect: Connect) -> None:
    sender, readers = await connect("sender"), [await connect(f"reader{i}") for i in range(3)]
    members, watcher = [Ear() for _ in readers], Ear()
    for reader, ear in zip(readers, members, strict=True):
        await reader.subscribe("job.*", ear, queue="workers")
    await readers[0].subscribe("job.>", watcher)
    for i in range(200):
        sender.publish("job.x", str(i).encode())
    await until(lambda: sum(len(ear.messages) for ear in members) == 200 == len(watcher.messages))
    assert sorted(b for ear in members for b in ear.bodies) == sorted(watcher.bodies)
    assert all(ear.messages for ear in members)


async def test_several_things_are_listened_to_at_once(connect: Connect) -> None:
    bus = await connect("one")
    one, other = Ear(), Ear()
    first, _ = await bus.subscribe_all([SubscriptionOptions("a", one), SubscriptionOptions("b.*", other)])
    for subject in ("a", "b.c"):
        bus.publish(subject, b"")
    await hear_end(bus, bus)
    await first.close()
    for subject in ("a", "b.d"):
        bus.publish(subject, b"")
    await hear_end(bus, bus)
    assert (one.subjects, other.subjects) == (["a"], ["b.c", "b.d"])


async def test_of_several_things_none_is_listened_to_where_one_is_refused(connect: Connect) -> None:
    bus = await connect("one")
    ear = Ear()
    with pytest.raises(BusError):
        await bus.subscribe_all([SubscriptionOptions("a", ear), SubscriptionOptions("a.", ear)])
    bus.publish("a", b"")
    await hear_end(bus, bus)
    assert not ear.messages


async def test_a_closed_subscription_hears_nothing_more(connect: Connect) -> None:
    bus = await connect("one")
    ear = Ear()
    subscription = await bus.subscribe("a", ear)
    bus.publish("a", b"1")
    await hear_end(bus, bus)
    await subscription.close()
    await subscription.close()
    bus.publish("a", b"2")
    await hear_end(bus, bus)
    assert ear.bodies == [b"1"]


async def test_what_waits_for_a_closed_subscription_is_thrown_away(connect: Connect) -> None:
    bus = await connect("one")
    ear, first = Ear(), asyncio.Event()
    subscription = await bus.subscribe("a", ear)

    def close_it(message: BusMessage) -> None:
        first.set()
        closing.append(asyncio.get_running_loop().create_task(subscription.close()))

    closing: list[asyncio.Task[None]] = []
    await bus.subscribe("stop", close_it)
    bus.publish("stop", b"")
    await first.wait()
    await asyncio.gather(*closing)
    for _ in range(10):
        bus.publish("a", b"")
    await hear_end(bus, bus)
    assert not ear.messages


async def test_order_holds_across_subscriptions_under_load(connect: Connect) -> None:
    sender, reader = await connect("sender"), await connect("reader")
    heard: list[bytes] = []
    for pattern in ("a", "b.*", "c.>", "d"):
        await reader.subscribe(pattern, lambda message: heard.append(message.data))
    subjects = itertools.cycle(["a", "b.x", "c.y.z", "d"])
    bodies = [b"%d" % i for i in range(20_000)]
    for body in bodies:
        sender.publish(next(subjects), body * 10)
    await until(lambda: len(heard) == len(bodies))
    assert heard == [body * 10 for body in bodies]


async def test_a_handler_that_fails_silences_nobody(connect: Connect) -> None:
    bus = await connect("one")
    ear = Ear()

    def fail(message: BusMessage) -> None:
        raise ValueError("planted")

    await bus.subscribe("a", fail)
    await bus.subscribe("a", ear)
    bus.publish("a", b"1")
    bus.publish("a", b"2")
    await hear_end(bus, bus)
    assert ear.bodies == [b"1", b"2"]
    assert bus.stats.errors == 2
    assert "planted" in bus.stats.last_error


@pytest.mark.parametrize("policy", list(WhenFull))
async def test_a_full_queue_drops_by_its_policy_and_counts(connect: Connect, policy: WhenFull) -> None:
    sender, reader = await connect("sender"), await connect("reader")
    ear, everything = Ear(), Ear()
    await reader.subscribe("flood", ear, limit=5, when_full=policy)
    await reader.subscribe("*", everything)
    for i in range(5_000):
        sender.publish("flood", b"%d" % i)
    await hear_end(reader, sender)
    assert len(everything.messages) == 5_000
    assert reader.stats.dropped > 0
    assert len(ear.messages) + reader.stats.dropped == 5_000
    assert reader.stats.dropped_by_subject == {"flood": reader.stats.dropped}
    kept = [int(body) for body in ear.bodies]
    assert kept == sorted(kept)
    if policy is WhenFull.DROP_OLDEST:
        assert kept[-1] == 4_999
    else:
        assert kept[:5] == [0, 1, 2, 3, 4]


async def test_a_flood_on_one_subscription_drops_nothing_of_another(connect: Connect) -> None:
    sender, reader = await connect("sender"), await connect("reader")
    calm = Ear()
    await reader.subscribe("flood", Ear(), limit=1)
    await reader.subscribe("calm", calm)
    for i in range(2_000):
        sender.publish("calm" if i % 100 == 0 else "flood", b"")
    await hear_end(reader, sender)
    assert len(calm.messages) == 20


async def test_big_messages_pass_and_bigger_ones_are_refused(connect: Connect) -> None:
    bus = await connect("one")
    ear = Ear()
    await bus.subscribe("big", ear)
    limit = PAYLOAD_BYTES_MAX
    bus.publish("big", b"x" * limit)
    with pytest.raises(BusError) as refused:
        bus.publish("big", b"x" * (limit + 1))
    assert refused.value.code is FailureCode.TOO_LARGE
    with pytest.raises(BusError):
        await bus.request("big", b"x" * (limit + 1))
    await until(lambda: bool(ear.messages))
    assert ear.bodies == [b"x" * limit]


async def test_leases_are_written_read_and_given_up(connect: Connect) -> None:
    one, other = await (await connect("one")).leases("here", 30.0), await (await connect("other")).leases("here", 30.0)
    assert await one.entries() == []
    assert await one.get("a.b") is None
    first = await one.put("a.b", b"1")
    await one.put("c", b"2")
    assert await one.put("a.b", b"3") > first
    assert {e.key: e.value for e in await other.entries()} == {"a.b": b"3", "c": b"2"}
    found = await other.get("a.b")
    assert found is not None
    assert found.value == b"3"
    assert 0 <= found.age_s < 10
    await other.delete("a.b")
    assert await one.get("a.b") is None
    assert [e.key for e in await one.entries()] == ["c"]


async def test_a_claim_has_one_holder(connect: Connect) -> None:
    one, other = await (await connect("one")).leases("here", 30.0), await (await connect("other")).leases("here", 30.0)
    claims = await asyncio.gather(one.create("boss", b"1"), other.create("boss", b"2"))
    assert sorted(claim is None for claim in claims) == [False, True]
    held = next(claim for claim in claims if claim is not None)
    assert await one.create("boss", b"3") is None
    assert await one.update("boss", b"4", held + 7) is None
    renewed = await one.update("boss", b"5", held)
    assert renewed is not None
    assert renewed > held
    assert await other.update("boss", b"6", held) is None
    await one.delete("boss")
    assert await one.update("boss", b"7", renewed) is None
    assert await other.create("boss", b"8") is not None


async def test_a_lease_that_is_not_renewed_vanishes(connect: Connect) -> None:
    leases = await (await connect("one")).leases("here", 1.0)
    await leases.put("a", b"1")
    held = await leases.create("b", b"1")
    assert held is not None

    async def only_what_is_renewed_is_there() -> bool:
        await leases.put("renewed", b"1")
        return {entry.key for entry in await leases.entries()} == {"renewed"}

    await until_it_answers(only_what_is_renewed_is_there, "the other keys have aged away", 30)
    assert await leases.get("a") is None
    assert await leases.create("b", b"2") is not None
    assert await leases.update("b", b"3", held) is None


@pytest.mark.parametrize("key", ["", "a b", "a.*", ">", ".a", "a\r\n"])
async def test_what_is_no_key_is_refused(connect: Connect, key: str) -> None:
    leases = await (await connect("one")).leases("here", 30.0)
    with pytest.raises(BusError):
        await leases.put(key, b"")
    with pytest.raises(BusError):
        await leases.get(key)


async def test_closing_delivers_what_is_queued_first(connect: Connect) -> None:
    sender, reader = await connect("sender"), await connect("reader")
    ear = Ear()
    await reader.subscribe("a", ear)
    for i in range(2_000):
        sender.publish("a", b"%d" % i)
    await sender.close()
    await reader.close()
    assert ear.bodies == [b"%d" % i for i in range(2_000)]


async def test_closing_twice_at_once_or_later_is_harmless(connect: Connect) -> None:
    bus = await connect("one")
    await asyncio.gather(bus.close(), bus.close())
    await bus.close()
    assert not bus.connected


async def test_a_closed_bus_says_so(connect: Connect) -> None:
    bus = await connect("one")
    await bus.close()
    with pytest.raises(BusError):
        bus.publish("a", b"")
    with pytest.raises(BusError):
        await bus.subscribe("a", Ear())
    with pytest.raises(BusError):
        await bus.request("a", b"")
    with pytest.raises(BusError):
        await bus.flush(0.1)


async def test_counters_count(connect: Connect) -> None:
    bus = await connect("one")
    await bus.subscribe("a", Ear())
    for _ in range(10):
        bus.publish("a", b"")
    await hear_end(bus, bus)
    assert bus.stats.sent == 11
    assert bus.stats.received == 11
    assert bus.stats.dropped == 0
