"""The registry: each service keeps its own lease, and claims belong to their machines."""

import asyncio

import pytest

from tests.bus.permissions.users import STREAM, Connect, each_role, each_service, nats
from tests.waiting import until, until_it_answers
from twd.bus.base import BusError
from twd.bus.followed_leases import CLAIMS
from twd.bus.permissions import ADMIN, REGISTRY, BusRole, RegistryAccess
from twd.kit.service import LEASE_TTL_S


@nats
@each_service
async def test_a_service_keeps_its_lease_and_touches_no_other(connect: Connect, role: BusRole) -> None:
    user, reader = await connect(role.name), await connect("metrics")
    own = f"{role.name}.node1.x"
    seen = await reader.bus.leases(REGISTRY, LEASE_TTL_S)
    leases = await user.bus.leases(REGISTRY, LEASE_TTL_S)
    await seen.entries()
    await leases.put(own, b"mine")
    await user.bus.flush()
    await reader.bus.flush()
    assert own in [entry.key for entry in await seen.entries()]
    if role.registry >= RegistryAccess.READ:
        assert own in [entry.key for entry in await leases.entries()]
    else:
        with pytest.raises(BusError, match="does not let"):
            await leases.entries()
    for key in ("other.node2.x", f"{role.name}.node2.x", "agent.node2.claim"):
        assert not await user.may_publish(f"$KV.{REGISTRY}.{key}"), key
    cleared = f"$KV.{REGISTRY}.other.node1.x"
    assert await user.may_publish(cleared) == (role.registry >= RegistryAccess.CLEAR)
    await leases.delete(own)
    await user.bus.flush()
    await reader.bus.flush()
    assert own not in [entry.key for entry in await seen.entries()]


@nats
@each_role
async def test_a_claim_is_only_for_its_machine(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    claims = f"$KV.{REGISTRY}{CLAIMS}"
    assert await user.may_publish(f"{claims}.agent.node1.claim") == (role.name == "agent")
    assert await user.may_publish(f"{claims}.coordinator.active.claim") == (role.name == "coordinator")
    assert await user.may_publish(f"{claims}.swarm.hub0.claim") == (role.name == "swarm")
    for key in ("agent.node2.claim", "agent.node1.claim.more", "agent.node1", f"{role.name}.node1.x", "x"):
        assert not await user.may_publish(f"{claims}.{key}"), key


@nats
async def test_an_agent_cannot_take_another_machines_claim(connect: Connect) -> None:
    one, two = await connect("agent"), await connect("agent", "node2")
    mine = await one.bus.leases(REGISTRY, LEASE_TTL_S)
    theirs = await two.bus.leases(REGISTRY, LEASE_TTL_S)
    revision = await theirs.create("agent.node2.claim", b"two")
    assert revision is not None
    with pytest.raises(BusError, match="does not let"):
        await mine.create("agent.node2.claim", b"one")
    assert [e.value for e in await mine.entries() if e.key == "agent.node2.claim"] == [b"two"]
    assert await theirs.update("agent.node2.claim", b"two again", revision) is not None
    await theirs.delete("agent.node2.claim")


@nats
async def test_one_holds_a_claim_and_the_next_one_takes_it_when_it_is_given_up(connect: Connect) -> None:
    one, two = await connect("coordinator"), await connect("coordinator", "node2")
    first, second = [await user.bus.leases(REGISTRY, LEASE_TTL_S) for user in (one, two)]
    revision = await first.create("coordinator.active.claim", b"one")
    assert revision is not None
    assert await second.create("coordinator.active.claim", b"two") is None
    holder = await second.get("coordinator.active.claim")
    assert holder is not None
    assert holder.value == b"one"
    assert await second.update("coordinator.active.claim", b"two", holder.revision) is not None
    await two.bus.flush()
    await one.bus.flush()
    assert await first.update("coordinator.active.claim", b"one", revision) is None, "it is another's now"
    await second.delete("coordinator.active.claim")
    await two.bus.flush()
    await one.bus.flush()
    assert await first.get("coordinator.active.claim") is None


@nats
async def test_a_claim_that_was_given_up_is_soon_as_if_it_had_never_been(connect: Connect) -> None:
    """Long before what nobody renews: else each start of an agent would wait whether a holder is only silent."""
    agent = await connect("agent")
    leases = await agent.bus.leases(REGISTRY, LEASE_TTL_S)
    key = "agent.node1.claim"
    assert await leases.create(key, b"one") is not None
    await leases.delete(key)
    first = {"Nats-Expected-Last-Subject-Sequence": "0"}

    async def is_forgotten() -> bool:
        answer = await agent.bus.ask(f"$KV.{REGISTRY}{CLAIMS}.{key}", b"two", headers=first)
        return b"error" not in answer.data

    await until_it_answers(is_forgotten, "the claim is forgotten", LEASE_TTL_S / 2)
    await leases.delete(key)


@nats
async def test_the_brokers_word_of_thanks_harms_nobody_wherever_it_is_sent(connect: Connect) -> None:
    """Who writes its own claim names where the broker acknowledges that: an own text never gets there."""
    hostile, agent, watcher = await connect("agent"), await connect("agent", "node2"), await connect("watcher")
    admin, reader = await connect(ADMIN), await connect("metrics")
    heard: list[bytes] = []
    await watcher.bus.subscribe("twd.v1.>", lambda message: heard.append(message.data))
    leases, seen = [await user.bus.leases(REGISTRY, LEASE_TTL_S) for user in (agent, reader)]
    revision = await leases.create("agent.node2.claim", b"two")
    assert revision is not None
    await seen.entries()
    own = f"$KV.{REGISTRY}{CLAIMS}.agent.node1.claim"
    targets = (
        "twd.v1.tokens.accepted.speculator.node2.x.b.job",
        f"$KV.{REGISTRY}.agent.node2.claim",
        f"$KV.{REGISTRY}{CLAIMS}.agent.node2.claim",
        *(f"$JS.API.STREAM.{verb}.{STREAM}" for verb in ("PURGE", "DELETE", "UPDATE", "MSG.DELETE")),
    )
    for target in targets:
        hostile.bus.publish(own, b'{"type": "twd.v1.tokens.accepted"}', reply=target)
    await hostile.bus.flush()
    await until(lambda: bool(heard))
    assert all(data.startswith(b'{"stream":') for data in heard), "never what the writer wrote"
    assert await leases.update("agent.node2.claim", b"still two", revision) is not None
    await agent.bus.flush()
    await reader.bus.flush()
    assert b"still two" in [entry.value for entry in await seen.entries()]
    info = await admin.bus.request(f"$JS.API.STREAM.INFO.{STREAM}", b"")
    assert b'"name":"' + STREAM.encode() in info
    await leases.delete("agent.node2.claim")


@nats
async def test_the_bucket_cannot_be_wiped_and_what_it_holds_is_bounded(connect: Connect) -> None:
    admin, agent = await connect(ADMIN), await connect("agent")
    for verb in ("PURGE", "MSG.DELETE"):
        told = await admin.bus.request(f"$JS.API.STREAM.{verb}.{STREAM}", b'{"seq":1}' if "MSG" in verb else b"")
        assert b"error" in told, "not even by the admin, unless the bucket is made anew"
    own = f"$KV.{REGISTRY}{CLAIMS}.agent.node1.claim"
    assert b"error" not in await agent.bus.request(own, b"x")
    assert b"message size exceeds" in await agent.bus.request(own, b"x" * (600 * 1024))
    rolled_up = await agent.bus.ask(own, b"x", headers={"Nats-Rollup": "all"})
    assert b"error" in rolled_up.data


@nats
async def test_a_role_that_fills_the_registry_crowds_nobody_out(connect: Connect) -> None:
    from twd.bus.followed_leases import KEYS_MAX

    hostile, good, reader = await connect("drafter"), await connect("drafter", "node2"), await connect("metrics")
    seen = await reader.bus.leases(REGISTRY, LEASE_TTL_S)
    await seen.entries()
    for number in range(2 * KEYS_MAX):
        hostile.bus.publish(f"$KV.{REGISTRY}.drafter.node1.x{number}", b"x")
    hostile.bus.publish(f"$KV.{REGISTRY}.drafter.node1.long", b"x" * 1_000_000)
    await hostile.bus.flush()
    leases, keys = await good.bus.leases(REGISTRY, LEASE_TTL_S), [""]
    async with asyncio.timeout(60):
        while "drafter.node2.x" not in keys:  # a reader that is slow may miss one of so many, and leases are renewed
            await leases.put("drafter.node2.x", b"good")
            await good.bus.flush()
            await reader.bus.flush()
            keys = [entry.key for entry in await seen.entries()]
    assert len([key for key in keys if key.startswith("drafter.node1.")]) == KEYS_MAX


@nats
@each_service
async def test_a_service_is_found(connect: Connect, role: BusRole) -> None:
    admin, user = await connect(ADMIN), await connect(role.name)
    for subject in ("$SRV.PING", f"$SRV.INFO.twd-{role.name}", f"$SRV.STATS.twd-{role.name}.x"):
        await user.bus.subscribe(subject, lambda message: user.bus.publish(message.reply, b"here"))
        assert await admin.bus.request(subject, b"") == b"here"
    assert not user.denials
    assert not await user.may_hear("$SRV.INFO.twd-other")
    assert not await user.may_publish("$SRV.PING")
