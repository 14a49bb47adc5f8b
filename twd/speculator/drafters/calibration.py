"""Drafters on trial: each writes along on a fixed text, to show what its guesses are worth; one at a time."""

from twd.wire.base import InstanceId, JobId, ModelId
from twd.wire.job import CALIBRATION, JobSubmitted, Prompt, Speculation

CALIBRATION_TEXT = (
    "The following is a short guide to growing tomatoes at home.\n\n"
    "Tomatoes need sun, water and patience. First, choose a place that gets at least six hours of light a day."
)
CALIBRATION_TOKENS = 64
CALIBRATION_WINDOW = 4


class DrafterTrials:
    """Who still waits for a trial, and whose trial which job is."""

    def __init__(self, model: ModelId, owner: InstanceId) -> None:
        self._model = model
        self._owner = owner
        self._waiting: dict[InstanceId, None] = {}
        self._running: dict[JobId, InstanceId] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def want(self, drafter: InstanceId) -> None:
        """Somebody new."""
        if drafter not in self._running.values():
            self._waiting[drafter] = None

    def spare(self, drafter: InstanceId) -> None:
        """It left, or is judged by other work."""
        self._waiting.pop(drafter, None)

    def begin(self, job: JobId) -> JobSubmitted:
        """The trial of who waits longest."""
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

    def end(self, job: JobId) -> InstanceId | None:
        """Whose trial ended, if this job was one."""
        return self._running.pop(job, None)
