"""Trials of drafters: each new drafter drafts for a fixed text, to measure its drafts; one drafter at a time.

A trial is a job of the speculator itself. It gives way when a user's job arrives, and is repeated later unless that job
has measured the drafter.
"""

import math

from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.job import CALIBRATION, JobSubmitted, Prompt, Speculation

CALIBRATION_TEXT = (
    "The following is a short guide to growing tomatoes at home.\n\n"
    "Tomatoes need sun, water and patience. First, choose a place that gets at least six hours of light a day."
)
CALIBRATION_TOKENS = 64
CALIBRATION_WINDOW = 4
TRIAL_AFTER_S = 0.5
"""Seconds after a user's job before a trial: the next request of a conversation should not meet one."""
JUDGING_S = 5.0
"""Seconds after a part of an answer was judged: the rest of it comes soon, and is being written on the same cores."""


class DrafterTrials:
    """The drafters that wait for a trial, and the drafter of each running trial job."""

    def __init__(self, model: ModelId, owner: InstanceId) -> None:
        self._model = model
        self._owner = owner
        self._waiting: dict[InstanceId, None] = {}
        self._running: dict[JobId, InstanceId] = {}
        self._free_at = -math.inf
        """No trial begins before this time."""

    def __len__(self) -> int:
        """How many drafters wait for a trial."""
        return len(self._waiting)

    def due(self, now: float) -> bool:
        """Whether a trial may begin, if no job runs."""
        return bool(self._waiting) and now >= self._free_at

    def wait(self, now: float, seconds: float = TRIAL_AFTER_S) -> None:
        """Begin no trial for some seconds, as jobs of users may come."""
        self._free_at = max(self._free_at, now + seconds)

    def want(self, drafter: InstanceId) -> None:
        """Put a new drafter on the list, unless its trial runs."""
        if drafter not in self._running.values():
            self._waiting[drafter] = None

    def spare(self, drafter: InstanceId) -> None:
        """Take a drafter off the list: it left, or was measured in other jobs."""
        self._waiting.pop(drafter, None)

    def begin(self, job: JobId) -> JobSubmitted:
        """Returns the trial job of the drafter that waits longest."""
        drafter = next(iter(self._waiting))
        del self._waiting[drafter]
        trial = JobSubmitted(
            job=JobId(f"{CALIBRATION}{job}"),
            model=self._model,
            owner=self._owner,
            prompt=Prompt(text=CALIBRATION_TEXT),
            max_tokens=CALIBRATION_TOKENS,
            ignore_eos=True,
            speculation=Speculation(window=CALIBRATION_WINDOW, recall=False),
            deadline_ms=30_000,
        )
        self._running[trial.job] = drafter
        return trial

    def interrupt(self) -> list[JobId]:
        """Put the drafters of running trials back on the list; returns the trial jobs, for the caller to cancel."""
        jobs = list(self._running)
        self._waiting |= dict.fromkeys(self._running.values())
        self._running.clear()
        return jobs

    def end(self, job: JobId, now: float) -> InstanceId | None:
        """Returns the drafter whose trial ended; None: this job was no trial."""
        drafter = self._running.pop(job, None)
        if drafter is None:
            self.wait(now)
        return drafter
