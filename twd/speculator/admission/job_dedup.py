"""Jobs on their way to the core: each attempt is taken once, and a cancel finds it while it is prepared."""

from collections.abc import Collection
from typing import Final

from twd.wire.base import JobId
from twd.wire.job import JobSubmitted

REMEMBERED_MAX: Final = 4096


class JobDedup:
    """What was taken lately, and what is being prepared now."""

    def __init__(self) -> None:
        self._latest: dict[JobId, int] = {}
        self._coming: dict[JobId, JobSubmitted] = {}

    def __len__(self) -> int:
        return len(self._coming)

    @property
    def coming(self) -> Collection[JobId]:
        """What is being prepared now."""
        return self._coming.keys()

    def is_new(self, job: JobSubmitted) -> bool:
        """Whether this attempt, or a later one, was not taken before: networks repeat and reorder."""
        return job.attempt > self._latest.get(job.job, 0)

    def take(self, job: JobSubmitted) -> JobSubmitted | None:
        """A job begins to be prepared; returns an earlier attempt that still is, and that nobody wants now."""
        self._latest.pop(job.job, None)
        if len(self._latest) >= REMEMBERED_MAX:
            del self._latest[next(iter(self._latest))]
        self._latest[job.job] = job.attempt
        earlier, self._coming[job.job] = self._coming.get(job.job), job
        return earlier

    def prepared(self, job: JobSubmitted) -> bool:
        """A job is prepared; whether it is still wanted."""
        if self._coming.get(job.job) is not job:
            return False
        del self._coming[job.job]
        return True

    def cancel(self, job: JobId, attempts: int = 0) -> JobSubmitted | None:
        """Let go of a job that is being prepared, or of its attempts up to this one; returns it."""
        coming = self._coming.get(job)
        if coming is None or (attempts and coming.attempt > attempts):
            return None
        return self._coming.pop(job)
