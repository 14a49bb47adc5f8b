"""Decides when an installation has been idle for long enough. Pure: the time comes in as an argument."""

from twd.wire.base import JobId

JOBS_MAX = 10_000
"""No more jobs are followed at once; the oldest gives way."""


class IdleWatch:
    """The jobs that run now, and since when there have been none."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._running: dict[JobId, None] = {}
        self._due_at: float | None = None

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    def started(self, job: JobId) -> None:
        """A job has started, or has started again."""
        if len(self._running) >= JOBS_MAX:
            del self._running[next(iter(self._running))]
        self._running[job] = None
        self._due_at = None

    def ended(self, job: JobId, now: float) -> float | None:
        """A job has ended; returns when the installation will have been idle for long enough, if none is left."""
        self._running.pop(job, None)
        if not self._running:
            self._due_at = now + self._idle_s
        return self._due_at

    def take_due(self, now: float) -> bool:
        """Whether the time has come; true once for each idle time."""
        due = self._due_at is not None and self._due_at <= now
        if due:
            self._due_at = None
        return due
