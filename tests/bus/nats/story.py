"""A connection's states as they were told, in order; and how tests open one."""

from collections.abc import Awaitable, Callable

from twd.bus.nats.bus import NatsBus
from twd.bus.nats.states import BusState

Open = Callable[..., Awaitable[NatsBus]]


class Story:
    """What a connection told about itself."""

    def __init__(self) -> None:
        self.events: list[tuple[BusState, str]] = []

    def __call__(self, state: BusState, detail: str) -> None:
        self.events.append((state, detail))

    @property
    def states(self) -> list[BusState]:
        return [state for state, _ in self.events]
