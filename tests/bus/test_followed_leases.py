"""Followed leases in virtual time: a claim has one holder, whoever answers a roll call last."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from tests.sim.virtual_loop import VirtualLoop
from twd.bus.followed_leases import CLAIMS, RETELL_S, SETTLE_S, FollowedLeases
from twd.bus.memory.bus import MemoryBroker
from twd.bus.nats.frames import StatusReply

KEY, LEASE = "coordinator.active.claim", "edge.node1.x"
TTL_S = 10.0


class ClaimsNetwork:
    """A bus in memory, and what the broker of a deployment stores: the last revision of each claim."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.sequence = 0
        self.last: dict[str, int] = {}
        self.knows_lifetimes = True
        self.written: list[dict[str, str]] = []

    def member(self, node: str) -> FollowedLeases:
        """What a process on this machine sees."""
        bus: Any = self.broker.connect(node)
        bus.ask = self.write
        return FollowedLeases(bus, "here", TTL_S)

    async def write(self, subject: str, data: bytes, *, headers: dict[str, str], timeout_s: float = 0.0) -> StatusReply:
        """Store a message if the expected revision is the last one."""
        wanted, last = headers.get("Nats-Expected-Last-Subject-Sequence"), self.last.get(subject, 0)
        if wanted is not None and int(wanted) != last:
            error = {"err_code": 10071, "description": f"wrong last sequence: {last}"}
            return StatusReply(json.dumps({"error": error}).encode())
        if "Nats-TTL" in headers and not self.knows_lifetimes:
            return StatusReply(b'{"error": {"err_code": 10166, "description": "per-message TTL is disabled"}}')
        self.written.append(headers)
        self.sequence += 1
        self.last[subject] = self.sequence
        return StatusReply(json.dumps({"seq": self.sequence}).encode())


def in_virtual_time(story: Callable[[ClaimsNetwork], Awaitable[None]]) -> None:
    async def told() -> None:
        await story(ClaimsNetwork())

    loop = VirtualLoop()
    try:
        loop.run_until_complete(told())
        assert loop.errors == []
    finally:
        loop.close()


async def taken_over(one: FollowedLeases, two: FollowedLeases) -> int:
    """Let `one` claim the key and `two` take it; returns the revision at which `one` had it."""
    revision = await one.create(KEY, b"one")
    assert revision is not None
    assert await two.create(KEY, b"two") is None
    holder = await two.get(KEY)
    assert holder is not None
    assert holder.value == b"one"
    assert await two.update(KEY, b"two", holder.revision) is not None
    return revision


async def held_by(reader: FollowedLeases) -> bytes:
    entry = await reader.get(KEY)
    assert entry is not None
    return entry.value


def test_who_lost_a_claim_does_not_take_its_own_answer_for_a_proof() -> None:
    async def story(network: ClaimsNetwork) -> None:
        one, two = network.member("one"), network.member("two")
        await two.put(LEASE, b"so it listens, and answers, before the other one")
        revision = await taken_over(one, two)
        assert await one.update(KEY, b"one", revision) is None
        assert await held_by(network.member("reader")) == b"two"

    in_virtual_time(story)


def test_an_answer_of_the_former_holder_that_comes_late_is_no_proof() -> None:
    async def story(network: ClaimsNetwork) -> None:
        one, two = network.member("one"), network.member("two")
        await one.entries()
        revision = await taken_over(one, two)
        cast(Any, one)._tell(KEY, b"one")  # its answer to a roll call that it heard before it heard of the other
        assert await one.update(KEY, b"one", revision) is None
        assert await held_by(two) == b"two"

    in_virtual_time(story)


def test_a_claim_that_was_lost_is_not_told_any_more() -> None:
    async def story(network: ClaimsNetwork) -> None:
        one, two = network.member("one"), network.member("two")
        await two.put(LEASE, b"so it answers before the other one")
        await one.update(KEY, b"one", await taken_over(one, two))
        await asyncio.sleep(RETELL_S)
        assert await held_by(network.member("reader")) == b"two"

    in_virtual_time(story)


def test_a_revision_that_somebody_else_changed_does_not_cost_the_claim() -> None:
    async def story(network: ClaimsNetwork) -> None:
        one = network.member("one")
        revision = await one.create(KEY, b"one")
        assert revision is not None
        await network.write(f"$KV.here{CLAIMS}.{KEY}", b"the broker's thanks", headers={})
        renewed = await one.update(KEY, b"one again", revision)
        assert renewed is not None
        assert renewed > revision + 1
        assert await held_by(network.member("reader")) == b"one again"

    in_virtual_time(story)


def test_who_asks_right_after_somebody_else_is_answered_too() -> None:
    async def story(network: ClaimsNetwork) -> None:
        holder, early, late = (network.member(name) for name in ("holder", "early", "late"))
        await holder.put(LEASE, b"1")
        first = asyncio.get_running_loop().create_task(early.entries())
        await asyncio.sleep(RETELL_S / 2)
        assert [entry.key for entry in await late.entries()] == [LEASE]
        assert [entry.key for entry in await first] == [LEASE]

    in_virtual_time(story)


def test_answers_to_many_roll_calls_are_few() -> None:
    async def story(network: ClaimsNetwork) -> None:
        holder, heard = network.member("holder"), list[bytes]()
        await network.broker.connect("ear").subscribe(f"$KV.here.{LEASE}", lambda message: heard.append(message.data))
        await holder.put(LEASE, b"1")
        heard.clear()

        async def keys_seen(number: int) -> list[str]:
            await asyncio.sleep(number * RETELL_S / 10)
            return [entry.key for entry in await network.member(f"reader{number}").entries()]

        assert await asyncio.gather(*map(keys_seen, range(20))) == [[LEASE]] * 20
        await asyncio.sleep(SETTLE_S + RETELL_S)
        assert 2 <= len(heard) <= 4, "one for each while, not one for each reader"

    in_virtual_time(story)


@pytest.mark.parametrize("knows_lifetimes", [True, False])
def test_the_mark_of_a_deletion_is_forgotten_where_the_bucket_can(knows_lifetimes: bool) -> None:
    async def story(network: ClaimsNetwork) -> None:
        network.knows_lifetimes = knows_lifetimes
        one = network.member("one")
        await one.create(KEY, b"one")
        await one.delete(KEY)
        assert network.written[-1]["KV-Operation"] == "DEL"
        assert ("Nats-TTL" in network.written[-1]) == knows_lifetimes
        assert await network.member("reader").get(KEY) is None

    in_virtual_time(story)
