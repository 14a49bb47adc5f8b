"""Calls in progress: their jobs with owners, and the events that their clients have not got yet."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from twd.edge.answering import News
from twd.kit.clock import Clock
from twd.kit.jobs.owner import Deliver, Fail, Finish, JobOwner, OwnerAction, OwnerPolicy, Release, Submit
from twd.kit.jobs.owning_service import JobEvent
from twd.wire.base import Event, InstanceId, JobId, ModelId
from twd.wire.failures import Failure
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobQueued, JobSubmitted

NEWS_MAX = 8192
"""The most events that may wait for a slow client; with more, its call is cancelled."""

COMING_S = 60.0
"""The seconds that a job waits for a model that is about to be served."""

_ENDS: Final = (JobFinished, Failure)


class InFlightRequest:
    """One client's call: the events of its jobs, in order."""

    def __init__(self) -> None:
        self.news: deque[tuple[int, News | Failure]] = deque()
        self.lines: list[TrackedJob] = []
        self.at_once: Callable[[], bool] | None = None
        """Takes events when they arrive while the reader waits. Returns False if the reader must take them."""
        self._waiter: asyncio.Future[None] | None = None
        self._enough = 1
        self._alarm: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    @property
    def ended(self) -> bool:
        """Whether all its jobs have ended."""
        return all(line.owner.ended for line in self.lines)

    def put(self, index: int, item: News | Failure) -> None:
        """Add an event; it is taken at once, or the reader is woken if enough events wait."""
        self.news.append((index, item))
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if _is_end(item) or (len(self.news) >= self._enough and not self._taken_at_once(waiter)):
            waiter.set_result(None)

    def _taken_at_once(self, waiter: asyncio.Future[None]) -> bool:
        if self.at_once is None:
            return False
        try:
            return self.at_once()
        except Exception as error:  # noqa: BLE001 - raised in the reader, which handles it
            waiter.set_exception(error)
            return True

    def begin_anew(self) -> None:
        """Events taken at once were sent to the client: the timeout starts again now."""
        self._sent_at = asyncio.get_running_loop().time()

    async def wait(self, timeout_s: float, enough: int = 1) -> bool:
        """Wait until `enough` events are there or a job has ended. False if nothing arrived and nothing was sent for
        `timeout_s` seconds.
        """
        if len(self.news) >= enough or any(_is_end(item) for _, item in self.news):
            return True
        self._enough = enough
        loop = asyncio.get_running_loop()
        self._waiter, self._sent_at = loop.create_future(), loop.time()
        self._alarm = loop.call_later(timeout_s, self._ring, self._waiter, timeout_s)
        try:
            await self._waiter
        finally:
            self._alarm.cancel()
            self._waiter = None
        return bool(self.news)

    def _ring(self, waiter: asyncio.Future[None], timeout_s: float) -> None:
        """End the wait if the timeout is over; if it started again, set a new timer."""
        loop = waiter.get_loop()
        left = self._sent_at + timeout_s - loop.time()
        if waiter.done():
            return
        if left > 0:
            self._alarm = loop.call_later(left, self._ring, waiter, timeout_s)
        else:
            waiter.set_result(None)


@dataclass(eq=False)
class TrackedJob:
    """One job of a call."""

    call: InFlightRequest
    index: int
    owner: JobOwner
    announced: bool = False
    timer: asyncio.TimerHandle | None = None
    timer_at: float = float("inf")


class RequestTracker:
    """All calls: hands events to the owners of their jobs, and does the actions that the owners return."""

    def __init__(
        self,
        clock: Clock,
        submit: Callable[[JobSubmitted, float], None],
        publish: Callable[[Event], None],
        guard: Callable[[Callable[[], None]], None],
        policy: OwnerPolicy | None = None,
        coming: Callable[[ModelId], bool] = lambda model: False,
    ) -> None:
        self._clock = clock
        self._submit = submit
        self._publish = publish
        self._guard = guard
        self._policy = policy or OwnerPolicy()
        self._coming = coming
        self._lines: dict[JobId, TrackedJob] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def open(self, jobs: Iterable[JobSubmitted]) -> InFlightRequest:
        """Submit jobs; their events arrive in the returned call."""
        call = InFlightRequest()
        now = self._clock.now()
        for index, job in enumerate(jobs):
            line = TrackedJob(call, index, JobOwner(job, self._policy_for(job.model), now))
            call.lines.append(line)
            self._lines[job.job] = line
        for line in call.lines:
            self._act(line, line.owner.begin(now))
        return call

    def _policy_for(self, model: ModelId) -> OwnerPolicy:
        """The owner policy. A model that replaces another one may wait for memory, so its jobs wait longer."""
        return replace(self._policy, patience_s=COMING_S) if self._coming(model) else self._policy

    def close(self, call: InFlightRequest, reason: str) -> None:
        """The client does not wait for this call any more: cancel what still runs."""
        now = self._clock.now()
        for line in call.lines:
            self._act(line, line.owner.cancel(reason, now))
            self._drop(line)
        call.news.clear()

    def fail_all(self, failure: Failure) -> None:
        """The edge stops: end every call with this failure."""
        for line in list(self._lines.values()):
            line.owner.cancel(failure.message, self._clock.now())
            self._publish(JobCancelled(job=line.owner.job.job, reason=failure.code.value))
            line.call.put(line.index, failure)
            self._drop(line)

    # -- what happens --------------------------------------------------------------------------

    def hear(self, event: JobEvent) -> None:
        """Handle an event of a job; events of other jobs are ignored."""
        line = self._lines.get(event.job)
        if line is not None:
            self._heard(line, line.owner.handle(event, self._clock.now()))

    def answered(self, event: JobQueued | JobFailed) -> None:
        """A submission was answered."""
        line = self._lines.get(event.job)
        if line is not None:
            self._heard(line, line.owner.answer(event, self._clock.now()))

    def _heard(self, line: TrackedJob, actions: list[OwnerAction]) -> None:
        started = line.owner.started
        if not line.announced and started is not None:
            line.announced = True
            line.call.put(line.index, started)
        self._act(line, actions)

    def unanswered(self, job: JobSubmitted, failure: Failure) -> None:
        """A submission got no answer."""
        line = self._lines.get(job.job)
        if line is not None:
            self._act(line, line.owner.unanswered(job.attempt, failure, self._clock.now()))

    def came(self, model: ModelId) -> None:
        """A worker of this model is ready: submit the jobs that wait for one."""
        now = self._clock.now()
        for line in list(self._lines.values()):
            if line.owner.job.model == model:
                self._act(line, line.owner.somebody_home(now))

    def gone(self, instance: InstanceId) -> None:
        """A worker has ended: its jobs are submitted elsewhere."""
        now = self._clock.now()
        for line in list(self._lines.values()):
            self._act(line, line.owner.worker_gone(instance, now))

    def bus_back(self) -> None:
        """The bus is back after a loss: workers that say nothing are not waited for as long as usual."""
        now = self._clock.now()
        for line in list(self._lines.values()):
            self._act(line, line.owner.bus_back(now))

    def _tick(self, line: TrackedJob) -> None:
        line.timer, line.timer_at = None, float("inf")
        self._act(line, line.owner.tick(self._clock.now()))

    # -- actions of the owners -----------------------------------------------------------------

    def _act(self, line: TrackedJob, actions: list[OwnerAction]) -> None:
        for action in actions:
            match action:
                case Submit(job, timeout_s):
                    self._submit(job, timeout_s)
                case Release(event):
                    self._publish(event)
                case Deliver(event):
                    line.call.put(line.index, event)
                case Finish(event):
                    line.call.put(line.index, event)
                case Fail(failure):
                    line.call.put(line.index, failure)
        if line.owner.ended:
            self._drop(line)
        elif len(line.call.news) > NEWS_MAX:
            self._give_up(line)
        else:
            self._arm(line)

    def _give_up(self, line: TrackedJob) -> None:
        line.call.news.clear()
        text = f"the client left {NEWS_MAX} pieces of its answer unread"
        self._act(line, line.owner.cancel(text, self._clock.now()))

    def _arm(self, line: TrackedJob) -> None:
        """Set the timer for the owner's `due` time; it may fire earlier and is then set again."""
        due = line.owner.due
        if due >= line.timer_at:
            return
        if line.timer is not None:
            line.timer.cancel()
        delay = max(0.0, due - self._clock.now())
        loop = asyncio.get_running_loop()
        line.timer_at = due
        line.timer = loop.call_later(delay, self._guard, lambda: self._tick(line))

    def _drop(self, line: TrackedJob) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        self._lines.pop(line.owner.job.job, None)


def _is_end(item: News | Failure) -> bool:
    return isinstance(item, _ENDS)
