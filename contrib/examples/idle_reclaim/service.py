"""The smallest complete service: it asks for memory back when no job has run for a while.

python -m contrib.examples.idle_reclaim.service 600 nats://127.0.0.1:4222 TOKEN
"""

import asyncio
import socket
import sys

from contrib.examples.idle_reclaim.core import IdleWatch
from twd.bus.address import BusAddress
from twd.bus.nats.bus import NatsBus
from twd.kit.effects import Publish, WakeAt
from twd.kit.ids import node_id
from twd.kit.service import Effects, Service, ServiceContext
from twd.process.run_service import run_service
from twd.wire.base import JobId
from twd.wire.job import JobFailed, JobFinished, JobStarted
from twd.wire.leases.base import LeaseFacts
from twd.wire.life import ReclaimWanted


class IdleReclaimFacts(LeaseFacts, frozen=True):
    """What this service tells in its lease, and `twd status --json` shows."""

    running: int = 0
    """Jobs in work."""


class IdleReclaimService(Service):
    """Hears when jobs start and end; once all are idle for long enough, it publishes what `twd reclaim` does."""

    name = "idle_reclaim"
    reads = (JobStarted, JobFinished, JobFailed)
    writes = (ReclaimWanted,)

    def __init__(self, context: ServiceContext, idle_s: float) -> None:
        super().__init__(context)
        self._watch = IdleWatch(idle_s)

    def on_job_started(self, event: JobStarted) -> Effects:
        """Not idle."""
        self._watch.started(event.job)
        return None

    def on_job_finished(self, event: JobFinished) -> Effects:
        """Perhaps the last one."""
        return self._ended(event.job)

    def on_job_failed(self, event: JobFailed) -> Effects:
        """Perhaps the last one."""
        return self._ended(event.job)

    def tick(self, now: float) -> Effects:
        """Publish when the time has come; WakeAt leads here."""
        return [Publish(ReclaimWanted(node=self.ctx.node))] if self._watch.take_due(now) else None

    def facts(self) -> IdleReclaimFacts:
        """What others read in this service's lease."""
        return IdleReclaimFacts(running=self._watch.running)

    def _ended(self, job: JobId) -> Effects:
        due_at = self._watch.ended(job, self.clock.now())
        return None if due_at is None else [WakeAt(due_at)]


def main() -> None:
    """Run the service until a signal ends it."""
    idle_s, url, token = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    node = node_id(socket.gethostname())
    run = run_service(
        lambda context: IdleReclaimService(context, idle_s),
        lambda: NatsBus.connect(BusAddress(url=url, token=token), name=f"idle_reclaim.{node}"),
        node,
    )
    sys.exit(asyncio.run(run))


if __name__ == "__main__":
    main()
