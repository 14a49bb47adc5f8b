"""The rights of `deploy/nats`, against a real server: each key can do its work and is refused the rest."""

import asyncio
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.bus.deployed import DEPLOY, NODES, Deployment
from tests.waiting import LOOK_S, until
from twd.bus.address import BusAddress
from twd.bus.base import BusError, BusMessage, NoResponders, SubscriptionOptions
from twd.bus.followed_leases import CLAIMS
from twd.bus.key_permissions import Credential, permissions_of
from twd.bus.nats.bus import NatsBus
from twd.bus.nats.states import BusState
from twd.bus.permissions import ADMIN, LIFE, REGISTRY, ROLE_NAMES, ROLES, BusRole, RegistryAccess
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Service
from twd.wire.failures import FailureCode
from twd.wire.routes import ROUTES, Delivery, Route

nats = pytest.mark.nats
TRAVELLING = [route for route in ROUTES if route.delivery is not Delivery.REPLY]
SERVICES = [role for role in ROLES if role.is_service]
STREAM = f"KV_{REGISTRY}{CLAIMS}"
JETSTREAM = (
    "INFO",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.CREATE.mine",
    *(f"STREAM.{verb}.{STREAM}" for verb in ("CREATE", "UPDATE", "INFO", "PURGE", "DELETE", "MSG.GET", "MSG.DELETE")),
    *(f"STREAM.{verb}.{STREAM}" for verb in ("SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE")),
    f"DIRECT.GET.{STREAM}",
    f"DIRECT.GET.{STREAM}.$KV.{REGISTRY}{CLAIMS}.agent.node1.claim",
    f"CONSUMER.CREATE.{STREAM}",
    f"CONSUMER.CREATE.{STREAM}.mine.all",
    f"CONSUMER.DURABLE.CREATE.{STREAM}.mine",
    f"CONSUMER.MSG.NEXT.{STREAM}.mine",
)
FOREIGN = ("twd.v1.other", "other", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.TWD.CONNZ", "_R_.x", "$JS.ACK.x")
each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
each_service = pytest.mark.parametrize("role", SERVICES, ids=lambda role: role.name)

Connect = Callable[..., Awaitable["User"]]


class User:
    """A connection of one role, with what the broker refused to it."""

    def __init__(self, role: str, node: str) -> None:
        self.role = role
        self.node = node
        self.denials: list[str] = []
        self.bus: NatsBus

    def on_event(self, state: BusState, detail: str) -> None:
        if state is BusState.DENIED:
            self.denials.append(detail)

    async def may_publish(self, subject: str, reply: str = "") -> bool:
        self.denials.clear()
        self.bus.publish(subject, b"{}", reply=reply)
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
    port = deployment.start("nats-server.conf")
    deployment.make_buckets(port)
    yield deployment, port
    deployment.end()


@pytest.fixture
async def connect(deployment: tuple[Deployment, int]) -> AsyncIterator[Connect]:
    files, port = deployment
    users: list[User] = []

    async def connect_one(role: str, node: str = "node1") -> User:
        user = User(role, node)
        user.bus = await files.connect(role, port, user.on_event, node)
        users.append(user)
        return user

    yield connect_one
    for user in users:
        await user.bus.close()


def subject_on(route: Route, role: str = "some", node: str = "node1", to: str = "any.node1.x", **keys: str) -> str:
    """One subject of a route; what no test names is `a`, the model that keys of the first machine are for."""
    keys = {"node": node, **keys}
    return route.pattern_for(f"{role}.{node}.x", to, **{key: keys.get(key, "a") for key in route.keys})


def pattern_on(route: Route, role: BusRole, node: str, model: str, to: str = "") -> str:
    """What a role of one machine, for one model, listens on."""
    keys = {"node": node} | ({"model": model} if role.of_models else {})
    to = to or f"{role.name}.{node}.*"
    return route.pattern_for(to=to, **{key: keys[key] for key in route.keys if key in keys})


# -- the table and the files -----------------------------------------------------------------------


def test_every_role_of_the_table_can_have_a_key() -> None:
    assert len(set(ROLE_NAMES)) == len(ROLES) + 1
    for role in ROLE_NAMES:
        for allowed in (permissions_of(Credential(role, "m")), permissions_of(Credential(role, "m", ("a", "b")))):
            assert len(set(allowed.publish)) == len(allowed.publish)
            assert all(subject and " " not in subject for subject in allowed.publish)


def test_no_role_may_use_jetstream_or_answer_whoever_a_message_names() -> None:
    for role in ROLES:
        allowed = permissions_of(Credential(role.name, "m"))
        assert not [subject for subject in allowed.publish if subject.startswith(("$JS", ">", "*"))]
    assert "allow_responses" not in (DEPLOY / "nats-server.conf").read_text()


def test_the_table_agrees_with_the_kit() -> None:
    assert REGISTRY == LEASE_BUCKET
    assert set(LIFE) == set(Service.ALWAYS_WRITES)


def services_of(role: str) -> list[type[Service]]:
    """The service of a role, and the kinds of it that its room knows besides."""
    elsewhere = {"supervisor": ["twd.supervisor.service"], "relay": ["twd.backends.relay.service"]}
    names = elsewhere.get(role) or modules_of(f"twd.{role}")
    members = [member for name in names for member in vars(importlib.import_module(name)).values()]
    return [m for m in members if inspect.isclass(m) and issubclass(m, Service) and getattr(m, "name", "") == role]


def modules_of(room: str) -> list[str]:
    found = importlib.util.find_spec(room)
    if found is None or found.submodule_search_locations is None:
        return []
    return [module.name for module in pkgutil.walk_packages(found.submodule_search_locations, f"{room}.")]


@each_service
def test_the_table_says_what_the_services_say(role: BusRole) -> None:
    services = services_of(role.name)
    if services:
        writes, reads = ({event for one in services for event in getattr(one, kind)} for kind in ("writes", "reads"))
        assert writes == set(role.writes), f"correct the row of {role.name} in twd/bus/permissions.py"
        assert reads == set(role.reads), f"correct the row of {role.name} in twd/bus/permissions.py"


# -- every role, and every machine, against every event --------------------------------------------


@nats
@each_role
async def test_a_role_publishes_its_own_events_and_no_others(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    own = {*role.writes, *(LIFE if role.is_service else ())}
    for route in TRAVELLING:
        subject = subject_on(route, role.name)
        assert await user.may_publish(subject) == (route.event in own), subject
    for subject in FOREIGN:
        assert not await user.may_publish(subject), subject


@nats
@each_role
async def test_a_role_publishes_under_no_other_role_machine_or_model(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    for route in TRAVELLING:
        for forged in {other.name for other in ROLES} - {role.name}:
            assert not await user.may_publish(subject_on(route, forged)), forged
        assert not await user.may_publish(subject_on(route, role.name, "node2")), route.tag
        if role.of_models and "model" in route.keys:
            assert not await user.may_publish(subject_on(route, role.name, model="b")), route.tag


@nats
@each_role
async def test_a_role_hears_its_own_events_and_no_others(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    for route in TRAVELLING:
        pattern, reads = pattern_on(route, role, "node1", "a"), route.event in role.reads
        for_all = role.hears_everything and route.delivery is Delivery.BROADCAST
        assert await user.may_hear(pattern, route.group) == (reads or for_all), pattern
        if route.group and not (reads and role.hears_everything):
            assert not await user.may_hear(pattern), "nobody listens in on what is shared out"
    other = "edge" if role.name != "edge" else "gate"
    own = (f"_INBOX.{role.name}.node2.>", f"_INBOX.{role.name}.>")
    for pattern in (">", "_INBOX.>", f"_INBOX.{other}.>", f"_INBOX.{other}.node1.>", *own, "$KV.>", "$SYS.>", "$JS.>"):
        assert not await user.may_hear(pattern), pattern
    assert await user.may_hear("twd.v1.>") == role.hears_everything


@nats
@each_role
async def test_a_role_hears_nothing_meant_for_another_machine_or_model(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    for route in TRAVELLING:
        patterns = []
        if "node" in route.keys and not role.hears_everything:
            patterns += [pattern_on(route, role, "node2", "a"), route.pattern]
        if "model" in route.keys and role.of_models:
            patterns += [pattern_on(route, role, "node1", "b"), route.pattern]
        if route.to:
            patterns += [pattern_on(route, role, "node1", "a", f"{role.name}.node2.*"), route.pattern]
        for pattern in patterns:
            assert not await user.may_hear(pattern, route.group), pattern


@nats
@each_role
async def test_no_role_may_use_jetstream(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    for verb in JETSTREAM:
        assert not await user.may_publish(f"$JS.API.{verb}"), verb
        assert not await user.may_publish(f"$JS.API.{verb}", f"_INBOX.{role.name}.node1.x"), verb


# -- answers, and who may give them ----------------------------------------------------------------


@nats
@each_role
async def test_a_role_answers_those_who_may_ask_it_and_nobody_else(connect: Connect, role: BusRole) -> None:
    user = await connect(role.name)
    for asker in ROLE_NAMES:
        other = next((one for one in ROLES if one.name == asker), None)
        asks = other is None or other.asks_services
        asks |= other is not None and any(
            route.event in other.writes and route.event in role.reads and route.group for route in TRAVELLING
        )
        assert await user.may_publish(f"_INBOX.{asker}.node2.x.1") == (asks and role.is_service), asker
    for subject in ("_INBOX.1", "_INBOX.unknown.node1.x.1"):
        assert not await user.may_publish(subject), subject


@nats
async def test_a_request_whose_answer_would_go_elsewhere_lets_nobody_say_more(connect: Connect) -> None:
    """Who hears what it published itself, with a reply that it chose, may answer there no more than before."""
    gate, watcher = await connect("gate"), await connect("watcher")
    heard, forged = list[BusMessage](), list[str]()
    await watcher.bus.subscribe("twd.v1.tokens.accepted.>", lambda message: forged.append(message.subject))
    await gate.bus.subscribe("twd.v1.job.submitted.*.*.*.*", heard.append, queue="speculators")
    target = "twd.v1.tokens.accepted.speculator.node1.x.a.job"
    gate.bus.publish("twd.v1.job.submitted.gate.node1.x.a", b"{}", reply=target)
    await until(lambda: bool(heard))
    assert not await gate.may_publish(target)
    assert not forged


@nats
async def test_who_answers_one_question_can_answer_no_other(connect: Connect) -> None:
    edge, relay = await connect("edge"), await connect("relay")
    asked: list[str] = []

    def take(message: BusMessage) -> None:
        asked.append(message.reply)
        relay.bus.publish(message.reply, b"queued")

    await relay.bus.subscribe("twd.v1.job.submitted.*.*.*.a", take, queue="speculators")
    for _ in range(20):
        assert await edge.bus.request("twd.v1.job.submitted.edge.node1.x.a", b"{}") == b"queued"
    assert relay.denials == []
    ends = {reply.rsplit(".", 1)[1] for reply in asked}
    assert len(ends) == 20
    assert all(len(end) == 16 for end in ends), "64 bits each that nobody can guess"


@nats
async def test_a_role_hears_no_answers_meant_for_another(connect: Connect, deployment: tuple[Deployment, int]) -> None:
    files, port = deployment
    for name in ("edge.node1", "drafter.node2"):
        with pytest.raises(BusError, match=r"listen on _inbox\.") as denied:
            await NatsBus.connect(files.address("drafter", port), name=name, wait_s=60)
        assert denied.value.code is FailureCode.FORBIDDEN


# -- the registry ----------------------------------------------------------------------------------


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
    async with asyncio.timeout(LEASE_TTL_S / 2):
        while b"error" in (await agent.bus.ask(f"$KV.{REGISTRY}{CLAIMS}.{key}", b"two", headers=first)).data:  # noqa: ASYNC110 - nothing tells that it is forgotten
            await asyncio.sleep(LOOK_S)
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


# -- in words, apart from the table ----------------------------------------------------------------


@nats
async def test_a_drafter_tells_drafts_and_itself_and_nothing_else(connect: Connect) -> None:
    drafter = await connect("drafter")
    own = "drafter.node1.x"
    for subject in (f"draft.proposed.{own}.a.s-1", f"drafter.attached.{own}", f"drafter.detached.{own}"):
        assert await drafter.may_publish(f"twd.v1.{subject}")
    for subject in (
        f"draft.proposed.{own}.b.s-1",
        "draft.proposed.drafter.node2.x.a.s-1",
        f"tokens.accepted.{own}.a.job-1",
        "tokens.accepted.speculator.node1.x.a.job-1",
        f"job.submitted.{own}.a",
        f"job.finished.{own}.a.job-1",
        f"job.cancelled.{own}.job-1",
        f"session.opened.{own}.a.{own}",
        f"draft.granted.{own}.a.s-1",
        f"model.ready.{own}",
    ):
        assert not await drafter.may_publish(f"twd.v1.{subject}"), subject
    assert not await drafter.may_hear("twd.v1.job.submitted.*.*.*.a", "speculators")
    assert not await drafter.may_hear("twd.v1.job.submitted.*.*.*.a")


@nats
async def test_a_relay_hears_no_job_of_another_model(connect: Connect) -> None:
    relay, other, edge = await connect("relay"), await connect("relay", "node2"), await connect("edge")
    heard: list[str] = []
    await relay.bus.subscribe(
        "twd.v1.job.submitted.*.*.*.a", lambda message: heard.append(message.subject), queue="speculators"
    )
    for pattern in ("twd.v1.job.submitted.*.*.*.a", "twd.v1.job.submitted.*.*.*.*", "twd.v1.job.submitted.>"):
        assert not await other.may_hear(pattern, "speculators"), pattern
    with pytest.raises(NoResponders):
        await edge.bus.request("twd.v1.job.submitted.edge.node1.x.b", b"{}", timeout_s=60)
    assert heard == []


@nats
async def test_a_prompt_reaches_the_drafter_that_is_named_and_nobody_else(connect: Connect) -> None:
    speculator, drafter, other = (
        await connect("speculator"),
        await connect("drafter"),
        await connect("drafter", "node2"),
    )
    named = "twd.v1.session.opened.*.*.*.a.drafter.node1.*"
    heard: list[str] = []
    await drafter.bus.subscribe(named, lambda message: heard.append("drafter"))
    listening = [await connect(role) for role in ("watcher", "metrics", ADMIN)]
    for user in listening:
        await user.bus.subscribe("twd.v1.>", lambda message: heard.append("not for you"))
    for user in (other, *listening):
        for pattern in (named, "twd.v1.session.opened.>", "twd.v1.session.opened.*.*.*.*.*.*.*"):
            assert not await user.may_hear(pattern), user.role
    speculator.bus.publish("twd.v1.session.opened.speculator.node1.x.a.drafter.node1.x", b"a prompt")
    await speculator.bus.flush()
    for user in (drafter, *listening):
        await user.bus.flush()
    await until(lambda: bool(heard))
    assert heard == ["drafter"]


@nats
async def test_each_of_those_who_ask_for_the_same_at_once_is_told(connect: Connect) -> None:
    """And who asks for it in a queue, where that is allowed, is another matter."""
    speculator, pattern = await connect("speculator"), "twd.v1.job.submitted.*.*.*.a"
    asked = [speculator.may_hear(pattern, queue) for queue in ("", "speculators", "", "speculators", "others")]
    assert await asyncio.gather(*asked) == [False, True, False, True, False]
    assert speculator.denials == []


@nats
async def test_who_asks_for_several_things_of_which_one_is_denied_hears_none(connect: Connect) -> None:
    speculator, heard = await connect("speculator"), list[BusMessage]()
    allowed, denied = "twd.v1.draft.proposed.*.*.*.a.*", "twd.v1.job.submitted.*.*.*.a"
    with pytest.raises(BusError) as refused:
        await speculator.bus.subscribe_all(
            [SubscriptionOptions(allowed, heard.append), SubscriptionOptions(denied, heard.append)]
        )
    assert refused.value.code is FailureCode.FORBIDDEN
    drafter = await connect("drafter")
    drafter.bus.publish("twd.v1.draft.proposed.drafter.node1.x.a.s", b"{}")
    await drafter.bus.flush()
    await speculator.bus.flush()
    assert heard == []


@nats
async def test_a_watcher_only_listens(connect: Connect) -> None:
    watcher, edge = await connect("watcher"), await connect("edge")
    heard: list[str] = []
    subject = "twd.v1.job.cancelled.edge.node1.x.job-1"
    await watcher.bus.subscribe("twd.v1.>", lambda message: heard.append(message.subject))
    edge.bus.publish(subject, b"{}")
    await until(lambda: heard == [subject])
    for one in (
        subject,
        "anything",
        "$SRV.PING",
        "$KV.twd_services.watcher.node1.x",
        "_INBOX.a",
        "twd.registry.wanted",
    ):
        assert not await watcher.may_publish(one), one
    with pytest.raises(BusError, match="does not let") as denied:
        await watcher.bus.request("twd.v1.job.submitted.watcher.node1.x.m", b"{}", timeout_s=60)
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
        await edge.bus.request("twd.v1.job.submitted.edge.node1.x.m", b"{}", timeout_s=60)
    edge.bus.publish("twd.v1.job.cancelled.edge.node1.x.end", b"{}")
    await until(lambda: bool(heard))
    assert heard == ["twd.v1.job.cancelled.edge.node1.x.end"]


@nats
async def test_the_status_role_reads_the_registry_and_asks_services(connect: Connect) -> None:
    status, edge = await connect("status"), await connect("edge")
    await (await edge.bus.leases(REGISTRY, LEASE_TTL_S)).put("edge.node1.x", b"1")
    leases = await status.bus.leases(REGISTRY, LEASE_TTL_S)
    assert "edge.node1.x" in [entry.key for entry in await leases.entries()], "who comes late calls the roll"
    assert not await status.may_publish("$KV.twd_services.status.node1.x")
    await edge.bus.subscribe("$SRV.PING", lambda message: edge.bus.publish(message.reply, b"here"))
    assert await status.bus.request("$SRV.PING", b"") == b"here"


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


def test_keys_are_for_a_machine(deployment: tuple[Deployment, int]) -> None:
    files, _ = deployment
    seeds = {path.read_bytes() for node in NODES for path in (files.folder / "keys" / node).iterdir()}
    assert len(seeds) == len(NODES) * len(ROLE_NAMES)
    assert all((files.folder / "keys" / node).stat().st_mode & 0o077 == 0 for node in NODES)
