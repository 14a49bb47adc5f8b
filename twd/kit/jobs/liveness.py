"""Tells which jobs still run: a live job sends an event every second; the event of its end may be lost."""

from typing import Final

from twd.wire.base import JobId

SILENCE_S: Final = 10.0
GIVEN_UP_MAX: Final = 64


class JobLiveness:
    """Remembers when the last event of each followed job came."""

    def __init__(self) -> None:
        self._heard: dict[JobId, float] = {}
        self._given_up: dict[JobId, None] = {}

    def hear(self, job: JobId, now: float) -> None:
        """Note that an event of this job came at `now`."""
        self._heard[job] = now

    def forget(self, job: JobId) -> None:
        """Stop following this job."""
        self._heard.pop(job, None)

    def give_up(self, now: float) -> list[JobId]:
        """Return the jobs without an event for more than SILENCE_S seconds, and stop following them."""
        silent = [job for job, heard in self._heard.items() if now - heard > SILENCE_S]
        for job in silent:
            self.forget(job)
            self._given_up[job] = None
        for job in list(self._given_up)[:-GIVEN_UP_MAX]:
            del self._given_up[job]
        return silent

    def returns(self, job: JobId) -> bool:
        """Return whether this job was given up before and is heard again; then a part of its text is missing here."""
        if job not in self._given_up:
            return False
        del self._given_up[job]
        return True
