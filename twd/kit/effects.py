"""What a core asks of its shell: four small values, so that a decision can be read and tested."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twd.wire.base import Event


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell the bus."""

    event: Event


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `tick` at this time of the clock, or a little later."""

    at: float


@dataclass(frozen=True, slots=True)
class Do:
    """Run an adapter call in the background; what it has to tell, it publishes itself."""

    name: str
    action: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Note:
    """Write to the log."""

    level: str
    text: str


Effect = Publish | WakeAt | Do | Note
