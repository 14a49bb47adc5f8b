"""A name has one holder: it is taken, renewed, lost and given up by compare-and-set."""

import asyncio
from collections.abc import Callable

from twd.bus.base import LeaseEntry, Leases
from twd.bus.memory.bus import MemoryBroker
from twd.kit.lease_lock import LeaseLock


def never(entry: LeaseEntry) -> bool:
    return False


def always(entry: LeaseEntry) -> bool:
    return True


async def registry(broker: MemoryBroker) -> Leases:
    return await broker.connect("x").leases("names", 10.0)


def claim_of(leases: Leases, who: bytes) -> tuple[LeaseLock, Callable[[], bytes]]:
    return LeaseLock(leases, "desk", lambda value: value.startswith(who)), lambda: who


async def test_one_of_many_gets_it_and_the_others_learn_who() -> None:
    leases = await registry(MemoryBroker())
    claims = [LeaseLock(leases, "desk", lambda value: False) for _ in range(5)]
    holders = await asyncio.gather(*(claim.take(b"%d" % i, never) for i, claim in enumerate(claims)))
    assert [claim.held for claim in claims].count(True) == 1
    winner = next(i for i, claim in enumerate(claims) if claim.held)
    assert [holder.value for holder in holders if holder] == [b"%d" % winner] * 4


async def test_who_was_pushed_aside_learns_it_at_the_next_renewal() -> None:
    leases = await registry(MemoryBroker())
    first, second = (claim_of(leases, who)[0] for who in (b"a", b"b"))
    assert await first.take(b"a1", never) is None
    assert await second.take(b"b1", always) is None
    assert not await first.renew(b"a2")
    assert not first.held
    assert await second.renew(b"b2")


async def test_renewals_at_once_and_a_lost_answer_do_not_cost_the_name() -> None:
    leases = await registry(MemoryBroker())
    claim, _ = claim_of(leases, b"a")
    await claim.take(b"a", never)
    assert all(await asyncio.gather(*(claim.renew(b"a%d" % i) for i in range(5))))
    await leases.put(claim.key, b"a-written-but-never-confirmed")
    assert await claim.renew(b"a9")


async def test_a_write_of_our_own_that_comes_late_does_not_cost_the_name() -> None:
    leases = await registry(MemoryBroker())
    claim, _ = claim_of(leases, b"a")
    await claim.take(b"a", never)
    await leases.put(claim.key, b"a-late")
    read = leases.get

    async def read_and_then_another(key: str) -> LeaseEntry | None:
        leases.get = read  # type: ignore[method-assign]
        entry = await read(key)
        await leases.put(key, b"a-later")
        return entry

    leases.get = read_and_then_another  # type: ignore[method-assign]
    assert await claim.renew(b"a2")


async def test_a_broker_that_forgot_it_is_told_again() -> None:
    leases = await registry(MemoryBroker())
    claim, _ = claim_of(leases, b"a")
    await claim.take(b"a", never)
    await leases.delete(claim.key)
    assert await claim.renew(b"a2")
    entry = await leases.get(claim.key)
    assert entry is not None
    assert entry.value == b"a2"


async def test_giving_up_leaves_what_belongs_to_another() -> None:
    leases = await registry(MemoryBroker())
    first, second = (claim_of(leases, who)[0] for who in (b"a", b"b"))
    await first.take(b"a", never)
    await second.take(b"b", always)
    await first.release()
    assert await leases.get(first.key) is not None
    await second.release()
    assert await leases.get(first.key) is None
