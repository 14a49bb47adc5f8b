"""Jobs between their arrival and the core: each attempt is taken once, and prepared beside the event loop."""

import asyncio
from collections.abc import Callable, Collection

from twd.kit.tasks import soon
from twd.speculator.admission.job_dedup import JobDedup
from twd.speculator.admission.tokenize_queue import TokenizeQueue
from twd.speculator.core.core import SpeculatorCore
from twd.speculator.core.session import PreparedRequest
from twd.speculator.runner import Post
from twd.speculator.targets.loaded import LoadedModel
from twd.wire.base import JobId, SessionId
from twd.wire.failures import TwdError
from twd.wire.job import JobSubmitted


class JobIntake:
    """The jobs that were taken and have not reached the core."""

    def __init__(self, loaded: LoadedModel, now: Callable[[], float]) -> None:
        self._dedup = JobDedup()
        self._preparation = TokenizeQueue(loaded, now)
        self._now = now
        self._posted = 0
        """How many prepared jobs the engine's thread has not taken yet."""

    def __len__(self) -> int:
        return len(self._dedup) + self._posted

    @property
    def in_preparation(self) -> Collection[JobId]:
        """The jobs that are not prepared yet."""
        return self._dedup.coming

    def is_new(self, job: JobSubmitted) -> bool:
        """Returns whether neither this attempt nor a later one was taken."""
        return self._dedup.is_new(job)

    def take(self, job: JobSubmitted) -> None:
        """Record that the preparation of a job begins; an earlier attempt is dropped."""
        earlier = self._dedup.take(job)
        if earlier is not None:
            self._preparation.drop(earlier)

    async def prepare(self, job: JobSubmitted, session: SessionId, post: Post, reached: Callable[[], None]) -> None:
        """Prepare a job and post it to the core, unless nobody wants it any more; `reached` is called when the core has
        it. Raises TwdError if it cannot run."""
        arrived = self._now()
        opening = await self._prepared(job, session, arrived)
        if opening is None:
            return
        loop = asyncio.get_running_loop()

        def submit(core: SpeculatorCore, now: float) -> None:
            core.submit(job, opening, min(arrived, now))
            soon(loop, self._core_has_one, reached)

        self._posted += 1
        post(submit)

    async def _prepared(self, job: JobSubmitted, session: SessionId, arrived: float) -> PreparedRequest | None:
        """Returns what the core needs of a job; None: nobody wants it any more."""
        try:
            opening = await self._preparation.prepared(job, session, arrived)
        except TwdError:
            if self._dedup.prepared(job):
                raise
            return None
        return opening if opening is not None and self._dedup.prepared(job) else None

    def _core_has_one(self, reached: Callable[[], None]) -> None:
        self._posted -= 1
        reached()

    def cancel(self, job: JobId, attempts: int = 0) -> JobSubmitted | None:
        """Drop a job in preparation and return it. `attempts`: only attempts up to this number; 0: any attempt."""
        coming = self._dedup.cancel(job, attempts)
        if coming is not None:
            self._preparation.drop(coming)
        return coming

    async def close(self) -> bool:
        """Prepare nothing more; returns whether running preparations ended in time."""
        return await self._preparation.close()
