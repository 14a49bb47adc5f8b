"""The smallest complete service: it cancels every job that runs longer than a limit.

python -m contrib.examples.time_limit.service 30 nats://127.0.0.1:4222 TOKEN
"""

import asyncio
import sys

from contrib.examples.time_limit.core import RunningJobs
from twd.bus.address import BusAddress
from twd.bus.nats.bus import NatsBus
from twd.kit.effects import Effect, Publish, WakeAt
from twd.kit.ids import node_id
from twd.kit.service import Effects, Service, ServiceContext
from twd.process.run_service import run_service
from twd.wire.job import JobCancelled, JobFailed, JobFinished, JobStarted


class TimeLimitService(Service):
    """Hears when jobs start and end, and cancels those that are overdue."""

    name = "time_limit"
    reads = (JobStarted, JobFinished, JobFailed)
    writes = (JobCancelled,)

    def __init__(self, context: ServiceContext, limit_s: float) -> None:
        super().__init__(context)
        self._jobs = RunningJobs(limit_s)

    def on_job_started(self, event: JobStarted) -> Effects:
        """Watch the job from now on."""
        self._jobs.started(event.job, self.clock.now())
        return self._wake_at_deadline()

    def on_job_finished(self, event: JobFinished) -> Effects:
        """Forget the job."""
        self._jobs.ended(event.job)
        return None

    def on_job_failed(self, event: JobFailed) -> Effects:
        """Forget the job."""
        self._jobs.ended(event.job)
        return None

    def tick(self, now: float) -> Effects:
        """Cancel what is overdue; WakeAt leads here."""
        cancelled = [Publish(JobCancelled(job=job, reason="time limit")) for job in self._jobs.take_overdue(now)]
        return [*cancelled, *self._wake_at_deadline()]

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """What `twd status --json` and others read in this service's lease."""
        return {"running": len(self._jobs)}

    def _wake_at_deadline(self) -> list[Effect]:
        deadline = self._jobs.next_deadline()
        return [] if deadline is None else [WakeAt(deadline)]


def main() -> None:
    """Run the service until a signal ends it."""
    limit_s, url, token = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    node = node_id()
    run = run_service(
        lambda context: TimeLimitService(context, limit_s),
        lambda: NatsBus.connect(BusAddress(url=url, token=token), name=f"time_limit.{node}"),
        node,
    )
    sys.exit(asyncio.run(run))


if __name__ == "__main__":
    main()
