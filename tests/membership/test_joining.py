"""Joining over a real broker: who is let in, what others notice of it, and how a machine goes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.bus.test_broker import Child
from tests.waiting import until
from twd.bus.broker import EmbeddedBroker
from twd.bus.join import JoinToken
from twd.bus.nats.bus import NatsBus
from twd.kit.clock import SystemClock
from twd.kit.connect import connect
from twd.kit.errors import CommandError
from twd.kit.tasks import TaskGroup
from twd.membership.core import without_machine, without_token
from twd.membership.hosting import make_bucket_for_claims, run_membership
from twd.membership.joining import check_identity, forget, join, leave
from twd.membership.reload import reload_users
from twd.membership.store import MemberStore
from twd.membership.tokens import new_token
from twd.process.home import RunningInstance
from twd.settings.broker import with_broker
from twd.settings.identity import FILE_NAME, read_identity
from twd.settings.model import Settings
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.routes import ROUTE_OF
from twd.wire.service import ServiceStarted

pytestmark = pytest.mark.nats
FIRST, SECOND = NodeId("first"), NodeId("second")


class World:
    """An installation on this machine that lets others in, and folders for these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemberStore(folder / "first")
        self.broker = EmbeddedBroker(self.store.home, port=0, users=self.store.for_broker(FIRST))
        self.child = Child(self.broker)
        self.up = asyncio.Event()
        self.faults: list[BaseException] = []
        self.tasks = TaskGroup("test", lambda name, error: self.faults.append(error))

    async def start(self) -> None:
        await self.child.start()
        await make_bucket_for_claims(self.settings, FIRST)
        run = partial(run_membership, self.settings, FIRST, SystemClock())
        watcher = await connect(self.settings, "watcher", FIRST)
        await watcher.subscribe(ROUTE_OF[ServiceStarted].pattern, lambda _: self.up.set())
        self.tasks.keep("membership", run)
        await self.up.wait()
        await watcher.close()

    @property
    def settings(self) -> Settings:
        address = self.broker.address
        settings = Settings(home=str(self.store.home), node=FIRST)
        keys = str(self.store.keys_of(FIRST))
        return with_broker(settings, address.url, address.tls.fingerprint, nkey_dir=keys)

    async def token(self, uses: int = 1, ttl_s: int = 600, hosts: tuple[str, ...] = ("127.0.0.1",)) -> JoinToken:
        address = self.broker.address
        instance = RunningInstance(
            pid=1,
            born=0.0,
            started_ms=1,
            version="1",
            node=FIRST,
            bus_url=address.url,
            bus_fingerprint=address.tls.fingerprint,
        )
        make = partial(new_token, self.store, instance, "0.0.0.0", ["machine"], ttl_s, uses, hosts)
        return (await asyncio.to_thread(make)).token

    async def member(self, role: str, node: NodeId = SECOND) -> NatsBus:
        identity = read_identity(self.folder / node)
        assert identity is not None
        settings = Settings(home=str(self.folder / node), node=node)
        keys = str(self.folder / node / "keys")
        return await connect(with_broker(settings, identity.url, identity.fingerprint, nkey_dir=keys), role, node)

    def home(self, node: str = SECOND) -> Path:
        return self.folder / node

    async def end(self) -> None:
        await self.tasks.close()
        self.child.end()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    try:
        async with asyncio.timeout(60):
            await world.start()
            yield world
    finally:
        await world.end()
    assert not world.faults


async def test_a_machine_joins_with_its_own_keys_and_nobody_is_disconnected(world: World) -> None:
    other = await connect(world.settings, "edge", FIRST)
    identity = await join(await world.token(), world.home(), SECOND)
    assert (identity.node, identity.roles) == (SECOND, ("machine",))
    assert read_identity(world.home()) == identity
    seeds = {file.stem for file in (world.home() / "keys").glob("*.nk")}
    assert seeds == {"member", "supervisor", "status", "agent", "stage", "drafter", "swarm"}
    assert not list(world.home().glob(".join*")), "the token's secret is not kept"
    bus = await world.member("agent")
    assert (await bus.leases("twd_services", 10)) is not None
    await other.flush()
    assert (other.connected, other.stats.reconnects) == (True, 0)
    for one in (bus, other):
        await one.close()


async def test_a_token_is_used_once_and_a_second_machine_is_told_by_whom(world: World) -> None:
    token = await world.token()
    await join(token, world.home(), SECOND)
    with pytest.raises(CommandError, match="used up, by second"):
        await join(token, world.home("third"), NodeId("third"))
    assert not (world.home("third") / FILE_NAME).exists()


async def test_two_that_bring_one_token_at_the_same_time_are_one_too_many(world: World) -> None:
    token = await world.token()
    tries = [join(token, world.home(f"m{number}"), NodeId(f"m{number}")) for number in range(4)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, CommandError) for one in results) == 3
    assert len(world.store.load().machines) == 1


async def test_a_joined_machine_joins_again_as_if_the_answer_was_lost(world: World) -> None:
    token = await world.token()
    first = await join(token, world.home(), SECOND)
    (world.home() / FILE_NAME).unlink()
    assert await join(token, world.home(), SECOND) == first


async def test_two_machines_of_one_name(world: World) -> None:
    token = await world.token(uses=3)
    await join(token, world.home(), SECOND)
    for name in (SECOND, FIRST):
        with pytest.raises(CommandError, match="another name"):
            await join(token, world.home("elsewhere"), name)


async def test_a_revoked_token_and_one_of_another_installation_are_not_known(world: World) -> None:
    revoked, foreign = await world.token(), await world.token()
    for token in (revoked, foreign):
        world.store.change(partial(without_token, name=token.id, now_ms=1))
    await reload_users(world.store, world.broker.address)
    with pytest.raises(CommandError, match="does not know this token"):
        await join(revoked, world.home(), SECOND)


async def test_who_has_another_certificate_hears_nothing(world: World) -> None:
    token = replace(await world.token(), fingerprint="ab" * 32)
    with pytest.raises(CommandError, match="nothing secret was sent"):
        await join(token, world.home(), SECOND)
    assert not world.store.load().machines


async def test_an_address_that_leads_nowhere_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await world.token(hosts=("127.0.0.2", "127.0.0.1"))
    stranger = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.3", 0)
    port = stranger.sockets[0].getsockname()[1]
    token = replace(token, addresses=(f"127.0.0.3:{port}", "localhost:1", token.addresses[1]))
    assert (await join(token, world.home(), SECOND)).url == f"tls://{token.addresses[2]}"
    monkeypatch.setattr("twd.membership.joining.REACH_S", 0.3)
    dead = replace(token, addresses=("127.0.0.1:1",))
    with pytest.raises(CommandError, match="no broker answers at"):
        await join(dead, world.home("third"), NodeId("third"))
    stranger.close()


async def test_a_removed_machine_is_out_at_once_and_the_others_do_not_notice(world: World) -> None:
    await join(await world.token(), world.home(), SECOND)
    await join(await world.token(), world.home("third"), NodeId("third"))
    gone, stays = await world.member("agent"), await world.member("agent", NodeId("third"))
    world.store.change(partial(without_machine, node=SECOND))
    await reload_users(world.store, world.broker.address)
    await until(lambda: not gone.connected)
    await until(lambda: "does not know our key" in gone.stats.last_error)
    await stays.flush()
    assert stays.stats.reconnects == 0
    for one in (gone, stays):
        await one.close()


async def test_a_machine_leaves_and_its_keys_open_nothing(world: World) -> None:
    identity = await join(await world.token(), world.home(), SECOND)
    stays = await world.member("agent")
    await leave(world.home(), identity)
    await until(lambda: stays.stats.last_error != "")
    with pytest.raises(TwdError, match="refuses to let us in"):
        await check_identity(world.home(), identity)
    assert not world.store.load().machines
    await stays.close()
    forget(world.home())
    assert not [file for file in world.home().rglob("*") if file.is_file()]


async def test_the_members_of_a_broker_that_was_killed_are_let_in_by_the_next_one(world: World) -> None:
    await join(await world.token(), world.home(), SECOND)
    bus = await world.member("agent")
    world.child.end()
    await until(lambda: not bus.connected)
    await world.child.start()
    await until(lambda: bus.connected)
    await bus.close()


async def test_without_a_broker_that_runs_the_change_waits_and_that_is_told(world: World) -> None:
    world.child.end()
    with pytest.raises(TwdError, match="at its next start"):
        await reload_users(world.store, world.broker.address)


async def test_many_that_join_at_the_same_time_all_get_in(world: World) -> None:
    async def one(number: int) -> None:
        name = NodeId(f"m{number}")
        await join(await world.token(), world.home(name), name)

    await asyncio.gather(*map(one, range(6)))
    assert len(world.store.load().machines) == 6
    assert {token.state(0) for token in world.store.load().tokens} == {"used"}
