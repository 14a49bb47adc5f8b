"""Jobs in hand: whose they are, and the signs of life that their owners wait for."""

from collections.abc import Collection

from twd.wire.base import InstanceId, JobId, SessionId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import JobSubmitted, TokensAccepted


class JobOwnership:
    """The jobs that were taken and did not end yet, each in its latest attempt."""

    def __init__(self) -> None:
        self._held: dict[JobId, tuple[JobSubmitted, SessionId]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, job: JobSubmitted, session: SessionId) -> None:
        """A job comes, or another attempt at it."""
        self._held[job.job] = job, session

    def ended(self, job: JobId, attempt: int) -> None:
        """An attempt is over; a later one that was taken meanwhile is not."""
        if job in self._held and self._held[job][0].attempt <= attempt:
            del self._held[job]

    def owner_of(self, job: JobId) -> str:
        """Who waits for it; empty: it is not in hand."""
        return self._held[job][0].owner if job in self._held else ""

    def check(self, job: JobSubmitted) -> None:
        """Refuse a job under the name of another owner's: it would take the place of that one."""
        if self.owner_of(job.job) not in ("", job.owner):
            raise TwdError(FailureCode.BUSY, f"another client has a job with the name {job.job!r} in hand")

    @property
    def instances(self) -> set[InstanceId]:
        """Who waits for something."""
        return {job.owner for job, _ in self._held.values()}

    def jobs_of(self, owner: InstanceId) -> list[JobId]:
        """What one of them waits for."""
        return [job.job for job, _ in self._held.values() if job.owner == owner]

    def signs_of_life(self, of: Collection[JobId] | None = None) -> list[TokensAccepted]:
        """For these jobs, or all: nothing new, but somebody works on it."""
        return [
            TokensAccepted(job=job.job, attempt=job.attempt, session=session, at=0, index=0, tokens=[])
            for job, session in self._held.values()
            if of is None or job.job in of
        ]
