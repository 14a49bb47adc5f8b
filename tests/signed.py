"""Events as their publishers sign them, for tests that play somebody."""

from typing import TypeVar

import msgspec

from twd.wire.base import Event, InstanceId
from twd.wire.routes import ROUTE_OF

E = TypeVar("E", bound=Event)
OWNER = InstanceId("edge.n.x")


def signed(event: E) -> E:
    """The event with a source that agrees with what it says of itself; by default, an edge's."""
    if event.source:
        return event
    own = {name: str(getattr(event, name)) for name in ROUTE_OF[type(event)].own}
    node = own.pop("node", "")
    source = next(iter(own.values()), f"someone.{node}.x" if node else OWNER)
    return msgspec.structs.replace(event, source=InstanceId(source))
