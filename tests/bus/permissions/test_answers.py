"""Answers to requests: who may give them, and who hears them."""

import pytest

from tests.bus.deployed import Deployment
from tests.bus.permissions.users import TRAVELLING, Connect, each_role, nats
from tests.waiting import until
from twd.bus.base import BusError, BusMessage
from twd.bus.nats.bus import NatsBus
from twd.bus.permissions import ROLE_NAMES, ROLES, BusRole
from twd.wire.failures import FailureCode


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
