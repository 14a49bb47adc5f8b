"""Sessions that cannot be drafted for at once, because their grammar must first be prepared on a thread."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twd.drafter.draft import DraftRules
from twd.wire.base import SessionId
from twd.wire.draft import SessionOpened

WAITING_MAX: Final = 64
CLOSING_S: Final = 5.0


@dataclass(slots=True, eq=False)
class PendingSession:
    """A waiting session, with its latest event."""

    event: SessionOpened


class PendingSessions:
    """Prepares one grammar at a time; a session that is dropped meanwhile is not opened."""

    def __init__(self, follow: Callable[[SessionOpened], DraftRules]) -> None:
        self._follow = follow
        self._waiting: dict[SessionId, PendingSession] = {}
        self._making = asyncio.Lock()

    def take(self, event: SessionOpened) -> PendingSession | None:
        """Returns a new session to prepare; None if too many wait, or if it waits already and only its event was
        updated."""
        waiting = self._waiting.get(event.session)
        if waiting is not None:
            waiting.event = event
        if waiting is not None or len(self._waiting) >= WAITING_MAX:
            return None
        opening = self._waiting[event.session] = PendingSession(event)
        return opening

    def drop(self, session: SessionId) -> None:
        """Forget a session that ended."""
        self._waiting.pop(session, None)

    async def following(self, opening: PendingSession) -> DraftRules | None:
        """Returns what is needed to draft for a session; None: it was dropped meanwhile, even if it was opened again
        since."""
        try:
            async with self._making:
                found = await asyncio.to_thread(self._follow, opening.event) if self._wanted(opening) else None
            return found if self._wanted(opening) else None
        finally:
            if self._wanted(opening):
                self.drop(opening.event.session)

    def _wanted(self, opening: PendingSession) -> bool:
        return self._waiting.get(opening.event.session) is opening

    async def close(self) -> bool:
        """Begin nothing more; returns whether the running preparation ended in time."""
        self._waiting.clear()
        try:
            async with asyncio.timeout(CLOSING_S), self._making:
                return True
        except TimeoutError:
            return False
