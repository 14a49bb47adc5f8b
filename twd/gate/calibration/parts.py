"""The jobs that a gate submits for its requests, and the owners of these jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from twd.kit.jobs.owner import Deliver, Fail, Finish, JobOwner, OwnerAction, OwnerPolicy, Release, Submit
from twd.kit.jobs.owning_service import JobEvent
from twd.wire.base import Event, InstanceId, JobId, ModelId
from twd.wire.failures import Failure
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobQueued, JobStarted, JobSubmitted, TokensAccepted

MEMBER: Final = OwnerPolicy(losses=0, patience_s=1.0, recovery_s=1.0)
"""For jobs of members. Another member can write instead, so the gate does not wait long for one."""
TARGET: Final = OwnerPolicy()


class Reader(Protocol):
    """Receives the events of a part."""

    def started(self, number: int, event: JobStarted) -> None:
        """It has started."""

    def text(self, number: int, event: TokensAccepted) -> None:
        """It sent text."""

    def finished(self, number: int, event: JobFinished) -> None:
        """It has finished."""

    def failed(self, number: int, failure: Failure) -> None:
        """It has failed."""


@dataclass(eq=False)
class PromptSplit:
    """One part: a job, its owner, and the reader of its events."""

    number: int
    owner: JobOwner
    reader: Reader
    told: bool = False


class Parts:
    """All parts of a gate: hands events to the job owners and does the actions that they return."""

    def __init__(
        self,
        now: Callable[[], float],
        submit: Callable[[JobSubmitted, float], None],
        publish: Callable[[Event], None],
    ) -> None:
        self._now = now
        self._submit = submit
        self._publish = publish
        self._parts: dict[JobId, PromptSplit] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def open(self, number: int, job: JobSubmitted, reader: Reader, policy: OwnerPolicy) -> None:
        """Submit a job for a part."""
        part = PromptSplit(number, JobOwner(job, policy, self._now()), reader)
        self._parts[job.job] = part
        self._act(part, part.owner.begin(self._now()))

    def stop(self, job: JobId, why: str) -> None:
        """Cancel a job that is not needed any more."""
        part = self._parts.get(job)
        if part is None:
            return
        for action in part.owner.cancel(why, self._now()):
            if isinstance(action, Release):
                self._publish(action.event)
        self._parts.pop(job, None)

    def answered(self, event: JobQueued | JobFailed) -> None:
        """A submission was answered."""
        part = self._parts.get(event.job)
        if part is not None:
            self._heard(part, part.owner.answer(event, self._now()))

    def hear(self, event: JobEvent) -> None:
        """Handle an event of a job; events of other jobs are ignored."""
        part = self._parts.get(event.job)
        if part is not None:
            self._heard(part, part.owner.handle(event, self._now()))

    def _heard(self, part: PromptSplit, actions: list[OwnerAction]) -> None:
        started = part.owner.started
        if not part.told and started is not None:
            part.told = True
            part.reader.started(part.number, started)
        self._act(part, actions)

    def unanswered(self, job: JobSubmitted, failure: Failure) -> None:
        """A submission got no answer."""
        part = self._parts.get(job.job)
        if part is not None:
            self._act(part, part.owner.unanswered(job.attempt, failure, self._now()))

    def came(self, model: ModelId) -> None:
        """A worker of this model is ready."""
        for part in list(self._parts.values()):
            if part.owner.job.model == model:
                self._act(part, part.owner.somebody_home(self._now()))

    def bus_back(self) -> None:
        """The bus is back after a loss."""
        for part in list(self._parts.values()):
            self._act(part, part.owner.bus_back(self._now()))

    def gone(self, instance: InstanceId) -> None:
        """A worker has ended."""
        for part in list(self._parts.values()):
            self._act(part, part.owner.worker_gone(instance, self._now()))

    def tick(self) -> None:
        """Handle deadlines, silent workers and retries that are due."""
        now = self._now()
        for part in list(self._parts.values()):
            if part.owner.due <= now:
                self._act(part, part.owner.tick(now))

    def _act(self, part: PromptSplit, actions: list[OwnerAction]) -> None:
        if part.owner.ended:
            self._parts.pop(part.owner.job.job, None)
        ends = [action for action in actions if isinstance(action, Finish)]
        for action in actions:
            match action:
                case Submit(job, timeout_s):
                    self._submit(job, timeout_s)
                case Release(event):
                    self._publish(event)
                case Deliver(event) if event.tokens or not ends or event.text != ends[0].event.tail:
                    part.reader.text(part.number, event)
                case Finish(event):
                    part.reader.finished(part.number, event)
                case Fail(failure):
                    part.reader.failed(part.number, failure)


def cancelled_by(event: JobCancelled, attempt: int) -> bool:
    """Whether a cancellation is meant for this attempt."""
    return not event.attempts or attempt <= event.attempts
