"""The queue before preparation. It limits how many prompts are prepared at once: a long prompt takes a core and many
times its size of memory from running sessions."""

import asyncio
from collections.abc import Callable
from typing import Final

from twd.speculator.admission.request_preprocessor import characters_of, is_quick
from twd.speculator.core.session import PreparedRequest
from twd.speculator.targets.embeddings import CLOSING_S
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.base import JobId, SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted

LONG_CHARACTERS: Final = 65_536
"""Longer jobs have a lane of their own: a short prompt never waits behind a long one."""
ASKED_AT_ONCE: Final = 8
"""Jobs prepared at once where another server does the work and this process only waits."""

Key = tuple[JobId, int]


class QueueLane:
    """Lets `at_once` jobs in at a time, in order of arrival; a dropped job waits no more."""

    def __init__(self, at_once: int) -> None:
        self._at_once = self._free = at_once
        self._line: dict[Key, asyncio.Future[bool]] = {}

    async def enter(self, key: Key) -> bool:
        """Wait for a turn; returns False when dropped. Whoever had a turn must call `leave`."""
        if self._free:
            self._free -= 1
            return True
        turn = self._line[key] = asyncio.get_running_loop().create_future()
        try:
            mine: bool = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()  # its turn came just when it was cancelled
            raise
        return mine

    def leave(self) -> None:
        """End a turn. The next one begins after the event loop has run once, because many jobs may have come
        together."""
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        while self._line:
            turn = self._line.pop(next(iter(self._line)))
            if not turn.done():  # its task may have been cancelled
                turn.set_result(True)
                return
        self._free += 1

    async def close(self) -> None:
        """Take all turns for ever: running turns end first, and no new one begins."""
        for key in list(self._line):
            self.drop(key)
        for place in range(self._at_once):
            await self.enter((JobId(""), place))

    def drop(self, key: Key) -> None:
        """Drop a job that waits."""
        turn = self._line.pop(key, None)
        if turn is not None and not turn.done():
            turn.set_result(False)


class TokenizeQueue:
    """Prepares the jobs of one model beside the event loop, one long and one short at a time; quick ones on the
    loop."""

    def __init__(self, loaded: LoadedModel, now: Callable[[], float]) -> None:
        self._loaded = loaded
        self._now = now
        at_once = 1 if loaded.local else ASKED_AT_ONCE
        self._quick, self._short, self._long = QueueLane(1), QueueLane(at_once), QueueLane(at_once)

    async def prepared(self, job: JobSubmitted, session: SessionId, arrived: float) -> PreparedRequest | None:
        """Returns what the core needs of a job, without blocking the loop for long; None: it was dropped meanwhile."""
        lane = self._lane_of(job)
        if not await lane.enter(_key(job)):
            return None
        try:
            if self._now() >= arrived + job.deadline_ms / 1000:
                text = f"the job waited to be prepared for more than {job.deadline_ms / 1000:g} s"
                raise TwdError(FailureCode.DEADLINE, text)
            if lane is self._quick:
                return self._loaded.prepare(job, session)
            return await asyncio.to_thread(self._loaded.prepare, job, session)
        finally:
            lane.leave()

    def _lane_of(self, job: JobSubmitted) -> QueueLane:
        if self._loaded.local and is_quick(job):
            return self._quick
        return self._long if characters_of(job) > LONG_CHARACTERS else self._short

    def drop(self, job: JobSubmitted) -> None:
        """Drop a job that nobody wants any more."""
        for lane in (self._quick, self._short, self._long):
            lane.drop(_key(job))

    async def close(self) -> bool:
        """Prepare nothing more; returns whether running preparations ended in time."""
        try:
            async with asyncio.timeout(CLOSING_S):
                await asyncio.gather(self._quick.close(), self._short.close(), self._long.close())
        except TimeoutError:
            return False
        return True


def _key(job: JobSubmitted) -> Key:
    return job.job, job.attempt
