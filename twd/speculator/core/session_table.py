"""Which sessions there are: those that wait for a slot of the target, and those that have one.

A prompt that begins like one that is read now waits until that part was read: the target copies it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from twd.decoding.window import FIRST_EPOCH
from twd.speculator.core.session import Session
from twd.wire.base import JobId, SessionId
from twd.wire.prefix import common_prefix


class SessionTable:
    """The sessions of one target, by job, by name and by slot, and the slots whose sessions ended."""

    def __init__(self, slots: int) -> None:
        """`slots`: how many sessions the target has room for."""
        self._slots = slots
        self.queue: deque[Session] = deque()
        self.running: dict[int, Session] = {}
        self.by_job: dict[JobId, Session] = {}
        self.by_id: dict[SessionId, Session] = {}
        self.sharing = 0
        """See `SpeculatorCore.sharing`."""
        self._released: list[int] = []
        self._epochs = FIRST_EPOCH

    def add(self, session: Session) -> None:
        """Record a session. It does not wait for a slot yet."""
        self.by_job[session.job.job] = session
        self.by_id[session.id] = session

    def take_waiting(self, least_shared: Callable[[int], int] | None = None) -> list[Session]:
        """Remove from the queue as many sessions as there are free slots, oldest first; returns them. Those whose
        beginning another one reads now stay: no other session gets their slots.

        `least_shared`: see `SpeculatorLimits`.
        """
        free = self._slots - len(self.running) - len(self._released)
        first, taken = list(islice(self.queue, max(0, free))), list[Session]()
        for session in first:
            others = [*self.running.values(), *taken]
            if least_shared is None or not waits_for_others(session, others, least_shared):
                self.queue.remove(session)
                taken.append(session)
        self.sharing = len(first) - len(taken)
        return taken

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


def waits_for_others(session: Session, others: Sequence[Session], least_shared: Callable[[int], int]) -> bool:
    """Returns whether the target will soon have read more of this session's tokens for one of the others than it has
    by now, and so much more that a copy is worth the wait."""
    prompt = session.tokens[:-1]  # the last one is read anyway, because its logits are needed
    shared = [(common_prefix(other.tokens, prompt), other) for other in others]
    later, source = max(shared, key=lambda one: one[0], default=(0, None))
    if source is None:
        return False
    now = max(min(common, read(other)) for common, other in shared)
    return later - now >= max(1, least_shared(len(source.tokens)))


def read(session: Session) -> int:
    """Returns how many tokens of a session the target has read for certain."""
    if session.slot < 0:
        return 0
    return session.inflight_windows[0].at if session.inflight_windows else session.fed
