"""The in-memory network misbehaves on demand, and for one seed always in the same way."""

from collections.abc import Callable

import pytest

from tests.waiting import until
from twd.bus.base import Bus, BusError, BusMessage, RequestTimeout
from twd.bus.memory.bus import MemoryBroker, NetworkFaults


async def send(broker: MemoryBroker, count: int = 300) -> list[int]:
    """What one reader hears of `count` messages; more may come of those that are out of order."""
    sender, reader = broker.connect("sender"), broker.connect("reader")
    heard: list[int] = []
    await reader.subscribe("a", lambda message: heard.append(int(message.data)))
    for i in range(count):
        sender.publish("a", b"%d" % i)
    broker.faults = NetworkFaults()
    await passed(sender, reader)
    return heard


async def passed(sender: Bus, reader: Bus) -> None:
    """Return when a message that nothing befalls has come after all others of its way."""
    came: list[BusMessage] = []
    await reader.subscribe("end", came.append)
    sender.publish("end", b"")
    await until(lambda: bool(came))


async def test_dropped_messages_never_come() -> None:
    broker = MemoryBroker(1)
    broker.faults.drop = 0.5
    heard = await send(broker)
    assert 0 < len(heard) < 300
    assert heard == sorted(set(heard))


async def test_repeated_messages_come_twice() -> None:
    broker = MemoryBroker(1)
    broker.faults.repeat = 0.5
    heard = await send(broker)
    assert set(heard) == set(range(300))
    assert 300 < len(heard) < 600


async def test_delayed_messages_come_late_and_in_order() -> None:
    broker = MemoryBroker(1)
    broker.faults.delay_s = (0.0, 0.1)
    assert await send(broker) == list(range(300))


async def test_reordered_messages_all_come() -> None:
    broker = MemoryBroker(1)
    broker.faults.reorder = 0.3
    heard = await send(broker)
    await until(lambda: len(heard) >= 300)
    assert sorted(heard) == list(range(300))
    assert heard != sorted(heard)


@pytest.mark.parametrize("seed", range(5))
async def test_one_seed_gives_one_result(seed: int) -> None:
    async def run() -> list[int]:
        broker = MemoryBroker(seed)
        broker.faults = NetworkFaults(drop=0.2, repeat=0.2)
        return await send(broker)

    assert await run() == await run()


async def test_nothing_passes_a_partition_in_either_direction() -> None:
    broker = MemoryBroker()
    left, right = broker.connect("left"), broker.connect("right")
    heard: list[str] = []

    def hear(name: str) -> Callable[[BusMessage], None]:
        return lambda message: heard.append(f"{name} heard {message.data.decode()}")

    await left.subscribe("a", hear("left"))
    await right.subscribe("a", hear("right"))
    broker.faults.cut.add(frozenset(("left", "right")))
    left.publish("a", b"1")
    right.publish("a", b"2")
    await until(lambda: len(heard) == 2)
    broker.faults.cut.clear()
    left.publish("a", b"3")
    await until(lambda: len(heard) == 4)
    assert sorted(heard) == ["left heard 1", "left heard 3", "right heard 2", "right heard 3"]


async def test_who_is_cut_off_waits_in_vain_and_reads_no_lease() -> None:
    broker = MemoryBroker()
    bus = broker.connect("left")
    leases = await bus.leases("here", 10)
    bus.cut_off = True
    assert not bus.connected
    with pytest.raises(RequestTimeout):
        await bus.request("a", b"", timeout_s=0.05)
    with pytest.raises(BusError):
        await leases.entries()
    with pytest.raises(BusError):
        await bus.flush()


async def test_a_paused_client_handles_everything_later() -> None:
    broker = MemoryBroker()
    bus = broker.connect("left")
    heard: list[bytes] = []
    await bus.subscribe("a", lambda message: heard.append(message.data))
    bus.paused = True
    bus.publish("a", b"1")
    await passed(bus, broker.connect("right"))
    assert heard == []
    bus.resume()
    await until(lambda: heard == [b"1"])


async def test_a_killed_client_handles_nothing_more() -> None:
    broker = MemoryBroker()
    bus = broker.connect("left")
    heard: list[bytes] = []
    await bus.subscribe("a", lambda message: heard.append(message.data))
    bus.publish("a", b"1")
    bus.kill()
    witness = broker.connect("right")
    await passed(witness, witness)
    assert heard == []
    assert broker.clients == [witness]


def test_who_was_cut_off_hears_that_the_bus_is_back() -> None:
    bus = MemoryBroker(1).connect("one")
    told: list[bool] = []
    bus.on_back(lambda: told.append(bus.connected))
    for away in (False, True, True, False, False):
        bus.cut_off = away
    assert told == [True]
