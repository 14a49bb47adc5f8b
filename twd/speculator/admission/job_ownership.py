"""Jobs in hand: their owners, and the signs of life for which the owners wait."""

from collections.abc import Collection

from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted, TokensAccepted


class JobOwnership:
    """The jobs that were taken and have not ended, each with its latest attempt."""

    def __init__(self) -> None:
        self._held: dict[JobId, tuple[JobSubmitted, SessionId]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, job: JobSubmitted, session: SessionId) -> None:
        """Record a job, or another attempt of it."""
        self._held[job.job] = job, session

    def ended(self, job: JobId, attempt: int) -> None:
        """Record that an attempt ended; a later attempt stays."""
        if job in self._held and self._held[job][0].attempt <= attempt:
            del self._held[job]

    def owner_of(self, job: JobId) -> str:
        """Returns the owner of a job; empty: the job is not in hand."""
        return self._held[job][0].owner if job in self._held else ""

    def check(self, job: JobSubmitted) -> None:
        """Raise TwdError for a job with the name of another owner's job, which it would replace."""
        if self.owner_of(job.job) not in ("", job.owner):
            raise TwdError(FailureCode.BUSY, f"another client has a job with the name {job.job!r} in hand")

    @property
    def instances(self) -> set[InstanceId]:
        """The owners of all jobs."""
        return {job.owner for job, _ in self._held.values()}

    def jobs_of(self, owner: InstanceId) -> list[JobId]:
        """Returns the jobs of one owner."""
        return [job.job for job, _ in self._held.values() if job.owner == owner]

    def signs_of_life(self, of: Collection[JobId] | None = None) -> list[TokensAccepted]:
        """Returns a sign of life for each of these jobs, or for all: an event without new tokens."""
        return [
            TokensAccepted(job=job.job, attempt=job.attempt, session=session, at=0, index=0, tokens=[])
            for job, session in self._held.values()
            if of is None or job.job in of
        ]
