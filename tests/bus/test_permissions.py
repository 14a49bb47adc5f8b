"""The permissions of `deploy/nats`, against a real server: each role can do its work and is refused the rest."""

import asyncio
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.bus.deployed import DEPLOY, Deployment
from tests.waiting import until
from twd.bus.address import BusAddress
from twd.bus.base import BusError, BusMessage, NoResponders, SubscriptionOptions
from twd.bus.nats.bus import BusState, NatsBus
from twd.bus.permissions import (
    ADMIN,
    LIFE,
    REGISTRY,
    ROLE_NAMES,
    ROLES,
    BusRole,
    RegistryAccess,
    permissions_of,
    render,
)
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Service
from twd.wire.failures import FailureCode
from twd.wire.routes import ROUTES, Delivery, Route

nats = pytest.mark.nats
ROLE = {role.name: role for role in ROLES}
TRAVELLING = [route for route in ROUTES if route.delivery is not Delivery.REPLY]
FOREIGN = ("twd.v1.other", "other", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.DELETE.KV_twd_services", "_INBOX.edge.a.1")

Connect = Callable[[str], Awaitable["User"]]


class User:
    """A connection of one role, with what the broker refused to it."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.denials: list[str] = []
        self.bus: NatsBus

    def on_event(self, state: BusState, detail: str) -> None:
        if state is BusState.DENIED:
            self.denials.append(detail)

    async def may_publish(self, subject: str) -> bool:
        self.denials.clear()
        self.bus.publish(subject, b"{}")
        await self.bus.flush()
        return not self.denials

    async def may_hear(self, pattern: str, queue: str = "") -> bool:
        try:
            subscription = await self.bus.subscribe(pattern, lambda message: None, queue=queue)
        except BusError as error:
            if error.code is not FailureCode.FORBIDDEN:
                raise
            return False
        await subscription.close()
        return True


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, int]]:
    deployment = Deployment(tmp_path_factory.mktemp("deployed"))
    yield deployment, deployment.start("nats-server.conf")
    deployment.end()


@pytest.fixture
async def connect(deployment: tuple[Deployment, int]) -> AsyncIterator[Connect]:
    files, port = deployment
    users: list[User] = []

    async def connect_one(role: str) -> User:
        user = User(role)
        user.bus = await files.connect(role, port, user.on_event)
        users.append(user)
        return user

    yield connect_one
    for user in users:
        await user.bus.close()


def subject_on(route: Route) -> str:
    return route.pattern.replace("*", "some")


# -- the table and the files -----------------------------------------------------------------------


def test_the_committed_permissions_are_those_of_the_table() -> None:
    assert (DEPLOY / "permissions.conf").read_text() == render(), "run: python -m twd.bus.permissions > deploy/nats/..."


def test_the_server_knows_every_role() -> None:
    config = (DEPLOY / "nats-server.conf").read_text()
    for name in ROLE_NAMES:
        assert f"{{ nkey: ${name}_key, permissions: ${name}_permissions }}" in config
    assert config.count("nkey:") == len(ROLE_NAMES)


def test_the_table_agrees_with_the_kit() -> None:
    assert REGISTRY == LEASE_BUCKET
    assert set(LIFE) == set(Service.ALWAYS_WRITES)


def services_of(role: str) -> list[type[Service]]:
    """The service of a role, and the kinds of it that its room knows besides."""
    names = {"supervisor": ["twd.supervisor.service"], "relay": ["twd.backends.relay.service"]}.get(role) or modules_of(
        f"twd.{role}"
    )
    members = [member for name in names for member in vars(importlib.import_module(name)).values()]
    return [m for m in members if inspect.isclass(m) and issubclass(m, Service) and getattr(m, "name", "") == role]


def modules_of(room: str) -> list[str]:
    found = importlib.util.find_spec(room)
    if found is None or found.submodule_search_locations is None:
        return []
    return [module.name for module in pkgutil.walk_packages(found.submodule_search_locations, f"{room}.")]


@pytest.mark.parametrize("role", [role for role in ROLES if role.is_service], ids=lambda role: role.name)
def test_the_table_says_what_the_services_say(role: BusRole) -> None:
    services = services_of(role.name)
    if services:
        writes, reads = ({event for one in services for event in getattr(one, kind)} for kind in ("writes", "reads"))
        assert writes == set(role.writes), f"correct the row of {role.name} in twd/bus/permissions.py"
        assert reads == set(role.reads), f"correct the row of {role.name} in twd/bus/permissions.py"


# -- every role against every event ----------------------------------------------------------------


@nats
@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
async def test_a_role_publishes_its_own_events_and_no_others(connect: Connect, role: BusRole) -> None:
    user, admin = await connect(role.name), await connect(ADMIN)
    heard: list[str] = []
    await admin.bus.subscribe("twd.v1.>", lambda message: heard.append(message.subject))
    own = {*role.writes, *(LIFE if role.is_service else ())}
    allowed = [subject_on(route) for route in TRAVELLING if route.event in own]
    for route in TRAVELLING:
        assert await user.may_publish(subject_on(route)) == (subject_on(route) in allowed), subject_on(route)
    for subject in FOREIGN:
        assert not await user.may_publish(subject), subject
    broadcast = [subject_on(route) for route in TRAVELLING if route.delivery is Delivery.BROADCAST]
    await until(lambda: len(heard) == len([subject for subject in allowed if subject in broadcast]))
    assert heard == [subject for subject in allowed if subject in broadcast]


@nats
@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
async def test_a_role_hears_its_own_events_and_no_others(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    for route in TRAVELLING:
        reads = route.event in role.reads
        shared = route.delivery is not Delivery.BROADCAST
        broadcast = role.hears_everything and not shared
        assert await user.may_hear(route.pattern, route.group) == (reads or broadcast), route.pattern
        if shared and not (reads and role.hears_everything):
            assert not await user.may_hear(route.pattern), "nobody listens in on what is shared out"
    for pattern in (">", "_INBOX.>", "_INBOX.edge.>" if role.name != "edge" else "_INBOX.gate.>", "$KV.>", "$SYS.>"):
        assert not await user.may_hear(pattern), pattern
    assert await user.may_hear("twd.v1.>") == role.hears_everything


@nats
@pytest.mark.parametrize("role", [role for role in ROLES if role.is_service], ids=lambda role: role.name)
async def test_a_service_keeps_its_lease_and_is_found(connect: Connect, role: BusRole) -> None:
    admin, user = await connect(ADMIN), await connect(role.name)
    every = await admin.bus.leases(REGISTRY, LEASE_TTL_S)
    await every.put("other.node1.x", b"1")
    leases = await user.bus.leases(REGISTRY, LEASE_TTL_S)
    await leases.put(f"{role.name}.node1.x", b"mine")
    assert (await every.get(f"{role.name}.node1.x")) is not None
    if role.registry >= RegistryAccess.READ:
        assert f"{role.name}.node1.x" in [entry.key for entry in await leases.entries()]
    else:
        with pytest.raises(BusError, match="does not let"):
            await leases.entries()
    if role.registry < RegistryAccess.CLEAR:
        with pytest.raises(BusError, match="does not let"):
            await leases.put("other.node1.x", b"not mine")
        with pytest.raises(BusError, match="does not let"):
            await leases.delete("other.node1.x")
    else:
        await leases.delete("other.node1.x")
    await leases.delete(f"{role.name}.node1.x")

    for subject in ("$SRV.PING", f"$SRV.INFO.twd-{role.name}", f"$SRV.STATS.twd-{role.name}.x"):
        await user.bus.subscribe(subject, lambda message: user.bus.publish(message.reply, b"here"))
        assert await admin.bus.request(subject, b"") == b"here"
    assert not [denial for denial in user.denials if "$srv" in denial or "_inbox" in denial]
    assert not await user.may_hear("$SRV.INFO.twd-other")
    assert not await user.may_publish("$SRV.PING")


# -- in words, apart from the table ----------------------------------------------------------------


@nats
async def test_a_drafter_tells_drafts_and_itself_and_nothing_else(connect: Connect) -> None:
    drafter = await connect("drafter")
    for subject in ("twd.v1.draft.proposed.s-1", "twd.v1.drafter.attached", "twd.v1.drafter.detached"):
        assert await drafter.may_publish(subject)
    for subject in (
        "twd.v1.tokens.accepted.job-1",
        "twd.v1.job.submitted.model",
        "twd.v1.job.finished.job-1",
        "twd.v1.job.cancelled.job-1",
        "twd.v1.session.opened.s-1",
        "twd.v1.draft.granted.s-1",
        "twd.v1.model.ready",
        "$JS.API.STREAM.INFO.KV_twd_services",
        "$KV.twd_services.speculator.node1.x",
    ):
        assert not await drafter.may_publish(subject), subject
    assert not await drafter.may_hear("twd.v1.job.submitted.*", "speculators")
    assert not await drafter.may_hear("twd.v1.job.submitted.*")


@nats
async def test_each_of_those_who_ask_for_the_same_at_once_is_told(connect: Connect) -> None:
    """And who asks for it in a queue, where that is allowed, is another matter."""
    speculator, pattern = await connect("speculator"), "twd.v1.job.submitted.*"
    asked = [speculator.may_hear(pattern, queue) for queue in ("", "speculators", "", "speculators", "others")]
    assert await asyncio.gather(*asked) == [False, True, False, True, False]
    assert speculator.denials == []


@nats
async def test_who_asks_for_several_things_of_which_one_is_denied_hears_none(connect: Connect) -> None:
    speculator, heard = await connect("speculator"), list[BusMessage]()
    allowed, denied = "twd.v1.draft.proposed.*", "twd.v1.job.submitted.*"
    with pytest.raises(BusError) as refused:
        await speculator.bus.subscribe_all(
            [SubscriptionOptions(allowed, heard.append), SubscriptionOptions(denied, heard.append)]
        )
    assert refused.value.code is FailureCode.FORBIDDEN
    drafter = await connect("drafter")
    drafter.bus.publish("twd.v1.draft.proposed.s", b"{}")
    await drafter.bus.flush()
    await speculator.bus.flush()
    assert heard == []


@nats
async def test_a_watcher_only_listens(connect: Connect) -> None:
    watcher, edge = await connect("watcher"), await connect("edge")
    heard: list[str] = []
    await watcher.bus.subscribe("twd.v1.>", lambda message: heard.append(message.subject))
    edge.bus.publish("twd.v1.job.cancelled.job-1", b"{}")
    await until(lambda: heard == ["twd.v1.job.cancelled.job-1"])
    for subject in ("twd.v1.job.cancelled.job-1", "anything", "$SRV.PING", "$KV.twd_services.watcher.x", "_INBOX.a"):
        assert not await watcher.may_publish(subject), subject
    with pytest.raises(BusError, match="does not let") as denied:
        await watcher.bus.request("twd.v1.job.submitted.m", b"{}", timeout_s=60)
    assert denied.value.code is FailureCode.FORBIDDEN


@nats
@pytest.mark.parametrize("listener", ["watcher", "metrics", ADMIN])
async def test_who_hears_everything_sees_no_prompt_and_hides_not_that_nobody_is_home(
    connect: Connect, listener: str
) -> None:
    watcher, edge = await connect(listener), await connect("edge")
    heard: list[str] = []
    await watcher.bus.subscribe("twd.v1.>", lambda message: heard.append(message.subject))
    with pytest.raises(NoResponders):
        await edge.bus.request("twd.v1.job.submitted.m", b"{}", timeout_s=60)
    edge.bus.publish("twd.v1.job.cancelled.end", b"{}")
    await until(lambda: bool(heard))
    assert heard == ["twd.v1.job.cancelled.end"]


@nats
async def test_a_job_is_answered_by_the_speculator_and_only_once(connect: Connect) -> None:
    edge, speculator = await connect("edge"), await connect("speculator")
    asked: list[BusMessage] = []

    def take(message: BusMessage) -> None:
        asked.append(message)
        speculator.bus.publish(message.reply, b"queued")

    await speculator.bus.subscribe("twd.v1.job.submitted.m", take, queue="speculators")
    assert await edge.bus.request("twd.v1.job.submitted.m", b"{}") == b"queued"
    assert speculator.denials == []
    assert not await speculator.may_publish(asked[0].reply)


@nats
async def test_the_status_role_reads_the_registry_and_asks_services(connect: Connect) -> None:
    status, edge = await connect("status"), await connect("edge")
    await (await edge.bus.leases(REGISTRY, LEASE_TTL_S)).put("edge.node1.x", b"1")
    leases = await status.bus.leases(REGISTRY, LEASE_TTL_S)
    assert "edge.node1.x" in [entry.key for entry in await leases.entries()]
    with pytest.raises(BusError, match="does not let"):
        await leases.put("status.x", b"1")
    await edge.bus.subscribe("$SRV.PING", lambda message: edge.bus.publish(message.reply, b"here"))
    assert await status.bus.request("$SRV.PING", b"") == b"here"


@nats
async def test_a_role_hears_no_answers_meant_for_another(connect: Connect, deployment: tuple[Deployment, int]) -> None:
    files, port = deployment
    with pytest.raises(BusError, match=r"listen on _inbox\.edge") as denied:
        await NatsBus.connect(files.address("drafter", port), name="edge", wait_s=60)
    assert denied.value.code is FailureCode.FORBIDDEN


# -- who gets in -----------------------------------------------------------------------------------


@nats
async def test_without_a_key_or_with_an_unknown_one_nobody_gets_in(
    deployment: tuple[Deployment, int], tmp_path: Path
) -> None:
    import nkeys

    files, port = deployment
    (tmp_path / "stranger.nk").write_bytes(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    known = files.address("edge", port)
    for address in (
        BusAddress(known.url, nkey_file=str(tmp_path / "stranger.nk"), tls=known.tls),
        BusAddress(known.url, token="guess", tls=known.tls),
        BusAddress(known.url, user="edge", password="guess", tls=known.tls),
        BusAddress(known.url, tls=known.tls),
    ):
        with pytest.raises(BusError, match="refuses to let us in") as refused:
            await NatsBus.connect(address, wait_s=60)
        assert refused.value.code is FailureCode.UNAUTHENTICATED


@nats
async def test_a_file_that_is_no_key_is_told(deployment: tuple[Deployment, int], tmp_path: Path) -> None:
    files, port = deployment
    (tmp_path / "bad.nk").write_text("SUNONSENSE")
    known = files.address("edge", port)
    with pytest.raises(BusError, match=r"bus\.nkey_file"):
        await NatsBus.connect(BusAddress(known.url, nkey_file=str(tmp_path / "bad.nk"), tls=known.tls))


def test_every_subject_of_the_table_is_well_formed() -> None:
    for role in ROLES:
        allowed = permissions_of(role)
        assert len(set(allowed.publish)) == len(allowed.publish)
        assert all(subject and " " not in subject for subject in allowed.publish)
