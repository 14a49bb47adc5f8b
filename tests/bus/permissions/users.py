"""Users of a deployed broker, each with a key of its own, and what they try."""

from collections.abc import Awaitable, Callable

import pytest

from twd.bus.base import BusError
from twd.bus.followed_leases import CLAIMS
from twd.bus.nats.bus import NatsBus
from twd.bus.nats.states import BusState
from twd.bus.permissions import REGISTRY, ROLES, BusRole
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


def subject_on(route: Route, role: str = "some", node: str = "node1", to: str = "any.node1.x", **keys: str) -> str:
    """One subject of a route; what no test names is `a`, the model that keys of the first machine are for."""
    keys = {"node": node, **keys}
    return route.pattern_for(f"{role}.{node}.x", to, **{key: keys.get(key, "a") for key in route.keys})


def pattern_on(route: Route, role: BusRole, node: str, model: str, to: str = "") -> str:
    """What a role of one machine, for one model, listens on."""
    keys = {"node": node} | ({"model": model} if role.of_models else {})
    to = to or f"{role.name}.{node}.*"
    return route.pattern_for(to=to, **{key: keys[key] for key in route.keys if key in keys})
