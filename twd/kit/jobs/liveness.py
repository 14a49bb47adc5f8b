"""Which texts are still being made: a live one says something every second, and the word of an end may be lost."""

from typing import Final

from twd.wire.base import JobId

SILENCE_S: Final = 10.0
GIVEN_UP_MAX: Final = 64


class JobLiveness:
    """When each followed job was heard of last."""

    def __init__(self) -> None:
        self._heard: dict[JobId, float] = {}
        self._given_up: dict[JobId, None] = {}

    def hear(self, job: JobId, now: float) -> None:
        """A followed job lives."""
        self._heard[job] = now

    def forget(self, job: JobId) -> None:
        """It is followed no more."""
        self._heard.pop(job, None)

    def give_up(self, now: float) -> list[JobId]:
        """Those of which nothing was heard for too long."""
        silent = [job for job, heard in self._heard.items() if now - heard > SILENCE_S]
        for job in silent:
            self.forget(job)
            self._given_up[job] = None
        for job in list(self._given_up)[:-GIVEN_UP_MAX]:
            del self._given_up[job]
        return silent

    def returns(self, job: JobId) -> bool:
        """Whether one that is heard again had been given up: a part of its text is missing then."""
        if job not in self._given_up:
            return False
        del self._given_up[job]
        return True
