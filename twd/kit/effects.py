"""What a core asks its service to do: four values, so that a test can check a decision without I/O."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twd.wire.base import Event


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish this event on the bus."""

    event: Event


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `tick` at this time of the clock, or a little later."""

    at: float


@dataclass(frozen=True, slots=True)
class Do:
    """Run this call in the background; it publishes its own results."""

    name: str
    action: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Make the call."""
        await self.action()


@dataclass(frozen=True, slots=True)
class Note:
    """Write to the log."""

    level: str
    text: str


Effect = Publish | WakeAt | Do | Note
