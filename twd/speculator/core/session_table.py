"""Which sessions there are: those that wait for a slot of the target, and those that have one."""

from collections import deque

from twd.decoding.window import FIRST_EPOCH
from twd.speculator.core.session import Session
from twd.wire.base import JobId, SessionId


class SessionTable:
    """The sessions of one target, by job, by name and by slot, and the slots whose sessions ended."""

    def __init__(self, slots: int) -> None:
        """`slots`: how many sessions the target has room for."""
        self._slots = slots
        self.queue: deque[Session] = deque()
        self.running: dict[int, Session] = {}
        self.by_job: dict[JobId, Session] = {}
        self.by_id: dict[SessionId, Session] = {}
        self._released: list[int] = []
        self._epochs = FIRST_EPOCH

    def add(self, session: Session) -> None:
        """Record a session. It does not wait for a slot yet."""
        self.by_job[session.job.job] = session
        self.by_id[session.id] = session

    def take_waiting(self) -> list[Session]:
        """Remove from the queue as many sessions as there are free slots, oldest first; returns them."""
        free = self._slots - len(self.running) - len(self._released)
        return [self.queue.popleft() for _ in range(min(free, len(self.queue)))]

    def place(self, session: Session, slot: int) -> None:
        """Give a session a slot and a new epoch."""
        session.slot = slot
        session.epoch = self._next_epoch()
        self.running[slot] = session

    def void(self, session: Session) -> None:
        """A draft was wrong: start a new epoch and drop all windows in flight."""
        session.epoch = self._next_epoch()
        session.inflight_windows.clear()

    def _next_epoch(self) -> int:
        """Returns a new epoch, unique over all sessions. So a late result of an ended session never matches the next
        session in the same slot."""
        self._epochs += 1
        return self._epochs

    def requeue(self, session: Session) -> None:
        """Take a session's slot and windows in flight away, and put it before all that wait."""
        session.inflight_windows.clear()
        self.running.pop(session.slot, None)
        session.slot = -1
        self.queue.appendleft(session)

    def forget_slots(self) -> None:
        """The target's cache is empty, so no slot keeps anything."""
        self._released.clear()

    def remove(self, session: Session) -> None:
        """Remove a session that ended; its slot is released."""
        self.by_job.pop(session.job.job, None)
        self.by_id.pop(session.id, None)
        if session in self.queue:
            self.queue.remove(session)
        if session.slot >= 0 and self.running.pop(session.slot, None) is not None:
            self._released.append(session.slot)

    def released(self) -> list[int]:
        """Returns the slots whose sessions ended since the last call. The target keeps their tokens for the next
        prompt."""
        slots, self._released = self._released, []
        return slots
