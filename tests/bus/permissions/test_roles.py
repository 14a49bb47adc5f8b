"""Every role, and every machine, against every event: its own and no others."""

from tests.bus.permissions.users import FOREIGN, JETSTREAM, TRAVELLING, Connect, each_role, nats, pattern_on, subject_on
from twd.bus.permissions import LIFE, ROLES, BusRole
from twd.wire.routes import Delivery


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
