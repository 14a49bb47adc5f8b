"""What single roles may do, in words, apart from the table."""

import asyncio

import pytest

from tests.bus.permissions.users import Connect, nats
from tests.waiting import until
from twd.bus.base import BusError, BusMessage, NoResponders, SubscriptionOptions
from twd.bus.permissions import ADMIN, REGISTRY
from twd.kit.service import LEASE_TTL_S
from twd.wire.failures import FailureCode


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
