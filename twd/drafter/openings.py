"""Sessions that cannot be followed at once, since their grammar must be made ready on a thread first."""

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
    """A session that waits, as it was told last."""

    event: SessionOpened


class PendingSessions:
    """One grammar at a time; whoever is dropped meanwhile is not followed any more."""

    def __init__(self, follow: Callable[[SessionOpened], DraftRules]) -> None:
        self._follow = follow
        self._waiting: dict[SessionId, PendingSession] = {}
        self._making = asyncio.Lock()

    def take(self, event: SessionOpened) -> PendingSession | None:
        """What to begin with: a session that is new, where not too many wait. One that waits is brought up to date."""
        waiting = self._waiting.get(event.session)
        if waiting is not None:
            waiting.event = event
        if waiting is not None or len(self._waiting) >= WAITING_MAX:
            return None
        opening = self._waiting[event.session] = PendingSession(event)
        return opening

    def drop(self, session: SessionId) -> None:
        """It is over."""
        self._waiting.pop(session, None)

    async def following(self, opening: PendingSession) -> DraftRules | None:
        """With what a session is followed; None when it was dropped meanwhile, be it that it was told anew."""
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
        """Begin nothing more; whether what is under way has ended in time."""
        self._waiting.clear()
        try:
            async with asyncio.timeout(CLOSING_S), self._making:
                return True
        except TimeoutError:
            return False
