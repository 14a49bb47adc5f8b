"""Edges without HTTP: owners of jobs as services, by themselves or with the real edge's desk."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from twd.bus.base import BusError
from twd.edge.inflight_requests import InFlightRequest, RequestTracker
from twd.kit.effects import Do, Effect, Publish, WakeAt
from twd.kit.instance_tracker import InstanceTracker
from twd.kit.jobs.owner import Deliver, Fail, Finish, JobOwner, OwnerAction, OwnerPolicy, Release, Submit
from twd.kit.service import Effects, Service, ServiceContext
from twd.wire.base import Event, InstanceId, JobId
from twd.wire.codec import Rejected
from twd.wire.failures import Failure, FailureCode
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobQueued, JobStarted, JobSubmitted, TokensAccepted
from twd.wire.service import ServiceExited, ServiceFaulted, ServiceStarted, ServiceStopped


@dataclass
class Diary:
    """What one owner saw of one job; it outlives the owner, as a client's memory does."""

    job: JobSubmitted
    begun: float
    edge: str
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ends: list[tuple[float, Finish | Fail]] = field(default_factory=list)
    cancelled: bool = False
    orphaned: bool = False
    """The owner itself was killed; nobody waits for this job any more."""

    @property
    def open(self) -> bool:
        """Whether somebody still waits for an end."""
        return not self.ends and not self.orphaned


class Edge(Service):
    """What a world knows of an edge: clients come, hear of their jobs through diaries, and may go away."""

    name = "edge"
    reads = (
        JobStarted,
        TokensAccepted,
        JobFinished,
        JobFailed,
        ServiceStarted,
        ServiceStopped,
        ServiceFaulted,
        ServiceExited,
    )
    writes = (JobCancelled,)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.diaries: dict[JobId, Diary] = {}
        self.idle = asyncio.Event()
        self.idle.set()
        self._instances = InstanceTracker()

    def submit(self, diary: Diary) -> None:
        """Begin a job; `diary` is told all that happens."""
        self.diaries[diary.job.job] = diary
        self.idle.clear()
        self.begin(diary)

    def begin(self, diary: Diary) -> None:
        """Bring the job on its way."""
        raise NotImplementedError

    def cancel(self, job: JobId) -> None:
        """The client goes away."""
        raise NotImplementedError

    def hear(self, event: JobStarted | TokensAccepted | JobFinished | JobFailed) -> Effects:
        """Something was said of some job."""
        raise NotImplementedError

    def gone(self, instance: InstanceId) -> Effects:
        """A service ended."""
        raise NotImplementedError

    def tell(self, diary: Diary, news: TokensAccepted | Finish | Fail) -> None:
        """Write into a diary what a client would see."""
        if isinstance(news, TokensAccepted):
            diary.tokens += news.tokens
            diary.text += news.text
            return
        diary.ends.append((self.clock.now(), news))
        if not any(other.open for other in self.diaries.values()):
            self.idle.set()

    async def quiesce(self) -> None:
        """Let the jobs in hand come to their ends."""
        await self.idle.wait()

    async def teardown(self) -> None:
        """What has no end yet gets one: clients are not left in silence."""
        for job, diary in self.diaries.items():
            if diary.open:
                self.cancel(job)

    def on_job_started(self, event: JobStarted) -> Effects:
        return self.hear(event)

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        return self.hear(event)

    def on_job_finished(self, event: JobFinished) -> Effects:
        return self.hear(event)

    def on_job_failed(self, event: JobFailed) -> Effects:
        return self.hear(event)

    def on_service_started(self, event: ServiceStarted) -> Effects:
        return self._watch(event)

    def on_service_stopped(self, event: ServiceStopped) -> Effects:
        return self._watch(event)

    def on_service_faulted(self, event: ServiceFaulted) -> Effects:
        return self._watch(event)

    def on_service_exited(self, event: ServiceExited) -> Effects:
        return self._watch(event)

    def _watch(self, event: Event) -> Effects:
        gone = self._instances.hear(event)
        return None if gone is None else self.gone(gone)


class Submitter(Edge):
    """Owns jobs by itself, each with a JobOwner."""

    policy: ClassVar[OwnerPolicy] = OwnerPolicy()
    make_owner: ClassVar[Callable[[JobSubmitted, OwnerPolicy, float], JobOwner]] = JobOwner

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.owners: dict[JobId, JobOwner] = {}
        self._armed = float("inf")

    def begin(self, diary: Diary) -> None:
        now = self.clock.now()
        owner = self.owners[diary.job.job] = type(self).make_owner(diary.job, self.policy, now)
        self.run_effects(self._carry_out(owner, owner.begin(now)))

    def cancel(self, job: JobId) -> None:
        owner = self.owners.get(job)
        if owner is not None:
            self.diaries[job].cancelled = True
            self.run_effects(self._carry_out(owner, owner.cancel("client went away", self.clock.now())))

    def tick(self, now: float) -> Effects:
        self._armed = float("inf")
        effects: list[Effect] = []
        for owner in list(self.owners.values()):
            effects += self._carry_out(owner, owner.tick(now))
        return [*effects, *self._arm()]

    def hear(self, event: JobStarted | TokensAccepted | JobFinished | JobFailed) -> Effects:
        owner = self.owners.get(event.job)
        return None if owner is None else self._carry_out(owner, owner.handle(event, self.clock.now()))

    def gone(self, instance: InstanceId) -> Effects:
        effects: list[Effect] = []
        for owner in list(self.owners.values()):
            effects += self._carry_out(owner, owner.worker_gone(instance, self.clock.now()))
        return effects

    def _carry_out(self, owner: JobOwner, actions: list[OwnerAction]) -> list[Effect]:
        diary, effects = self.diaries[owner.job.job], list[Effect]()
        for action in actions:
            match action:
                case Submit(job, timeout_s):
                    effects.append(Do("submit", partial(self._ask_for, owner, job, timeout_s)))
                case Release(event):
                    effects.append(Publish(event))
                case Deliver(event):
                    self.tell(diary, event)
                case Finish() | Fail():
                    self.owners.pop(owner.job.job, None)
                    self.tell(diary, action)
        return [*effects, *self._arm()]

    def _arm(self) -> list[Effect]:
        due = min((owner.due for owner in self.owners.values()), default=float("inf"))
        if due >= self._armed:
            return []
        self._armed = due
        return [WakeAt(due)]

    async def _ask_for(self, owner: JobOwner, job: JobSubmitted, timeout_s: float) -> None:
        try:
            answer = await self.ask(job, timeout_s=timeout_s)
        except BusError as error:
            self._settle(owner, owner.unanswered(job.attempt, error.failure, self.clock.now()))
            return
        if isinstance(answer, Rejected):
            raise AssertionError(f"a speculator answered nonsense: {answer.reason}")
        self._settle(owner, owner.answer(answer, self.clock.now()))

    def _settle(self, owner: JobOwner, actions: list[OwnerAction]) -> None:
        self.run_effects(self._carry_out(owner, actions))


class DeskEdge(Edge):
    """The real edge's desk, with clients in place of its HTTP server."""

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.desk = RequestTracker(self.clock, self._offer, self.emit, self._guarded)
        self.calls: dict[JobId, InFlightRequest] = {}

    def begin(self, diary: Diary) -> None:
        call = self.calls[diary.job.job] = self.desk.open([diary.job])
        self.tasks.start(f"client {diary.job.job}", self._read(diary, call))

    def cancel(self, job: JobId) -> None:
        call, diary = self.calls.get(job), self.diaries.get(job)
        if call is not None and diary is not None and diary.open:
            diary.cancelled = True
            self.desk.close(call, "client went away")
            self.tell(diary, Fail(Failure(code=FailureCode.CANCELLED, message="client went away")))

    def hear(self, event: JobStarted | TokensAccepted | JobFinished | JobFailed) -> Effects:
        self.desk.hear(event)
        return None

    def gone(self, instance: InstanceId) -> Effects:
        self.desk.gone(instance)
        return None

    async def _read(self, diary: Diary, call: InFlightRequest) -> None:
        while diary.open:
            await call.wait(3600.0)
            while call.news:
                _, news = call.news.popleft()
                match news:
                    case TokensAccepted():
                        self.tell(diary, news)
                    case JobFinished():
                        self.tell(diary, Finish(news))
                    case Failure():
                        self.tell(diary, Fail(news))

    def _offer(self, job: JobSubmitted, timeout_s: float) -> None:
        self.tasks.start("submit", self._ask_for(job, timeout_s))

    async def _ask_for(self, job: JobSubmitted, timeout_s: float) -> None:
        try:
            answer = await self.ask(job, timeout_s=timeout_s)
        except BusError as error:
            self.desk.unanswered(job, error.failure)
            return
        if not isinstance(answer, JobQueued | JobFailed):
            raise AssertionError(f"a speculator answered nonsense: {answer}")
        self.desk.answered(answer)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - as the edge does
            self.fail(error, "timer")
