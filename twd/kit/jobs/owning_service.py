"""A service that owns jobs: it hears what becomes of them, and which workers are gone."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import partial

from twd.bus.base import BusError
from twd.kit.instance_tracker import InstanceTracker
from twd.kit.service import Effects, Service, ServiceContext
from twd.wire.base import Event, InstanceId
from twd.wire.codec import Rejected
from twd.wire.failures import Failure
from twd.wire.job import JobFailed, JobFinished, JobQueued, JobStarted, JobSubmitted, TokensAccepted
from twd.wire.service import ServiceExited, ServiceFaulted, ServiceLease, ServiceStarted, ServiceStopped

JobEvent = JobStarted | TokensAccepted | JobFinished | JobFailed
OF_JOBS = (JobStarted, TokensAccepted, JobFinished, JobFailed)
OF_WORKERS = (ServiceStarted, ServiceStopped, ServiceFaulted, ServiceExited)


class OwningService(Service):
    """Hands the events of jobs and of their workers to a subclass; its `reads` must hold OF_JOBS and OF_WORKERS."""

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self._instances = InstanceTracker()
        self.bus.on_back(self.bus_back)

    # -- what a subclass does ------------------------------------------------------------------

    @abstractmethod
    def job_event(self, event: JobEvent) -> None:
        """Take an event of a job, which may be another owner's."""

    @abstractmethod
    def job_answered(self, answer: JobQueued | JobFailed) -> None:
        """Take the answer to a submission."""

    @abstractmethod
    def job_unanswered(self, job: JobSubmitted, failure: Failure) -> None:
        """Take the reason why a submission got no answer."""

    @abstractmethod
    def why_unanswered(self, job: JobSubmitted, answer: Event | Rejected | BusError) -> Failure:
        """Why an answer to a submission is none."""

    @abstractmethod
    def worker_gone(self, instance: InstanceId) -> None:
        """A process has ended."""

    @abstractmethod
    def bus_back(self) -> None:
        """The bus is back after a loss."""

    # -- submissions ---------------------------------------------------------------------------

    def submit_job(self, job: JobSubmitted, timeout_s: float) -> None:
        """Send a job to whoever serves its model; the answer, or why there is none, comes later."""
        self.ask_then(job, partial(self._took, job), timeout_s=timeout_s)

    def _took(self, job: JobSubmitted, answer: Event | Rejected | BusError) -> None:
        if isinstance(answer, JobQueued | JobFailed):
            self.job_answered(answer)
        else:
            self.job_unanswered(job, self.why_unanswered(job, answer))

    # -- events --------------------------------------------------------------------------------

    def on_job_started(self, event: JobStarted) -> Effects:
        """The prompt of a job is being read."""
        self.job_event(event)
        return None

    def on_tokens_accepted(self, event: TokensAccepted) -> Effects:
        """A job got more text."""
        self.job_event(event)
        return None

    def on_job_finished(self, event: JobFinished) -> Effects:
        """A job has finished."""
        self.job_event(event)
        return None

    def on_job_failed(self, event: JobFailed) -> Effects:
        """A job has failed."""
        self.job_event(event)
        return None

    def workers_seen(self, leases: Iterable[ServiceLease]) -> None:
        """Learn which processes are there, so that the end of one that started earlier is noticed at once."""
        self._instances.see(leases)

    def _of_worker(self, event: Event) -> Effects:
        gone = self._instances.hear(event)
        if gone is not None:
            self.worker_gone(gone)
        return None

    def on_service_started(self, event: ServiceStarted) -> Effects:
        """A process started."""
        return self._of_worker(event)

    def on_service_stopped(self, event: ServiceStopped) -> Effects:
        """A process stopped normally."""
        return self._of_worker(event)

    def on_service_faulted(self, event: ServiceFaulted) -> Effects:
        """A process stopped because of an error."""
        return self._of_worker(event)

    def on_service_exited(self, event: ServiceExited) -> Effects:
        """A supervisor saw a process end."""
        return self._of_worker(event)
