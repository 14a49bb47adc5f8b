"""Jobs on their way to the core: each attempt is taken once, and a cancel also finds a job in preparation."""

from collections.abc import Collection
from typing import Final

from twd.wire.base import JobId
from twd.wire.job import JobSubmitted

REMEMBERED_MAX: Final = 4096


class JobDedup:
    """The attempts that were taken lately, and the jobs in preparation."""

    def __init__(self) -> None:
        self._latest: dict[JobId, int] = {}
        self._coming: dict[JobId, JobSubmitted] = {}

    def __len__(self) -> int:
        return len(self._coming)

    @property
    def coming(self) -> Collection[JobId]:
        """The jobs in preparation."""
        return self._coming.keys()

    def is_new(self, job: JobSubmitted) -> bool:
        """Returns whether neither this attempt nor a later one was taken: networks repeat and reorder messages."""
        return job.attempt > self._latest.get(job.job, 0)

    def take(self, job: JobSubmitted) -> JobSubmitted | None:
        """Record that the preparation of a job begins; returns an earlier attempt that is still in preparation and not
        wanted any more."""
        self._latest.pop(job.job, None)
        if len(self._latest) >= REMEMBERED_MAX:
            del self._latest[next(iter(self._latest))]
        self._latest[job.job] = job.attempt
        earlier, self._coming[job.job] = self._coming.get(job.job), job
        return earlier

    def prepared(self, job: JobSubmitted) -> bool:
        """Record that a job is prepared; returns whether it is still wanted."""
        if self._coming.get(job.job) is not job:
            return False
        del self._coming[job.job]
        return True

    def cancel(self, job: JobId, attempts: int = 0) -> JobSubmitted | None:
        """Remove a job in preparation and return it. `attempts`: only attempts up to this number; 0: any attempt."""
        coming = self._coming.get(job)
        if coming is None or (attempts and coming.attempt > attempts):
            return None
        return self._coming.pop(job)
