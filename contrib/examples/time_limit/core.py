"""Decides which jobs have run for too long. Pure: the time comes in as an argument."""

from twd.wire.base import JobId

JOBS_MAX = 10_000
"""No more jobs are watched at once; the oldest gives way."""


class RunningJobs:
    """The jobs that run now, each with the time of its end."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._deadlines: dict[JobId, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def started(self, job: JobId, now: float) -> float:
        """A job has started; returns its deadline. A second attempt keeps the first deadline."""
        if len(self._deadlines) >= JOBS_MAX:
            del self._deadlines[next(iter(self._deadlines))]
        return self._deadlines.setdefault(job, now + self._limit_s)

    def ended(self, job: JobId) -> None:
        """A job has ended by itself."""
        self._deadlines.pop(job, None)

    def take_overdue(self, now: float) -> list[JobId]:
        """The jobs whose deadline has passed; each is returned once."""
        overdue = [job for job, deadline in self._deadlines.items() if deadline <= now]
        for job in overdue:
            del self._deadlines[job]
        return overdue

    def next_deadline(self) -> float | None:
        """The earliest deadline."""
        return min(self._deadlines.values(), default=None)
