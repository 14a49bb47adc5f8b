"""Sessions that cannot be followed at once, since their grammar must be made ready on a thread first."""

import asyncio
from collections.abc import Callable
from typing import Final

from twd.drafter.draft import Following
from twd.wire.base import SessionId
from twd.wire.draft import SessionOpened

WAITING_MAX: Final = 64
CLOSING_S: Final = 5.0


class Openings:
    """One grammar at a time; whoever is dropped meanwhile is not followed any more."""

    def __init__(self, follow: Callable[[SessionOpened], Following]) -> None:
        self._follow = follow
        self._waiting: set[SessionId] = set()
        self._making = asyncio.Lock()

    def takes(self, session: SessionId) -> bool:
        """Whether to begin with it: it is new, and not too many wait."""
        if session in self._waiting or len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.add(session)
        return True

    def drop(self, session: SessionId) -> None:
        """It is over."""
        self._waiting.discard(session)

    async def following(self, event: SessionOpened) -> Following | None:
        """With what a session is followed; None when it was dropped meanwhile."""
        try:
            async with self._making:
                found = await asyncio.to_thread(self._follow, event) if event.session in self._waiting else None
            return found if event.session in self._waiting else None
        finally:
            self._waiting.discard(event.session)

    async def close(self) -> bool:
        """Begin nothing more; whether what is under way has ended in time."""
        self._waiting.clear()
        try:
            async with asyncio.timeout(CLOSING_S), self._making:
                return True
        except TimeoutError:
            return False
