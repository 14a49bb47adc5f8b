"""The example of docs/adding-a-service.md works as the page says."""

import asyncio
import random

from contrib.examples.time_limit.core import JOBS_MAX, RunningJobs
from contrib.examples.time_limit.service import TimeLimitService
from tests.sim.virtual_loop import VirtualLoop
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import LoopClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.wire.base import JobId, ModelId, NodeId, SessionId
from twd.wire.codec import decode, encode
from twd.wire.job import FinishReason, JobCancelled, JobFinished, JobStarted, JobStats
from twd.wire.routes import ROUTE_OF

LONG, SHORT = JobId("long"), JobId("short")


def test_a_job_is_overdue_once_and_only_after_its_deadline() -> None:
    jobs = RunningJobs(limit_s=10)
    assert jobs.started(LONG, now=1) == 11
    assert jobs.started(LONG, now=5) == 11
    assert jobs.take_overdue(now=10.9) == []
    assert jobs.take_overdue(now=11) == [LONG]
    assert jobs.take_overdue(now=12) == []


def test_a_job_that_ended_is_never_overdue() -> None:
    jobs = RunningJobs(limit_s=10)
    jobs.started(SHORT, now=0)
    jobs.ended(SHORT)
    jobs.ended(JobId("unknown"))
    assert jobs.next_deadline() is None
    assert jobs.take_overdue(now=99) == []


def test_the_table_is_bounded() -> None:
    jobs = RunningJobs(limit_s=1)
    for number in range(JOBS_MAX + 5):
        jobs.started(JobId(f"j{number}"), now=0)
    assert len(jobs) == JOBS_MAX


def started(job: JobId) -> JobStarted:
    return JobStarted(job=job, attempt=1, session=SessionId(job), model=ModelId("m"), prompt_tokens=3)


async def cancelled_in_a_minute() -> list[tuple[JobId, float]]:
    """Run the service on a bus in memory, in virtual time; returns what it cancelled, and when."""
    broker, clock = MemoryBroker(), LoopClock()
    heard: list[tuple[JobId, float]] = []
    watcher = broker.connect("watcher")
    begun = clock.now()

    def hear(message: object) -> None:
        event = decode(message.data)  # type: ignore[attr-defined]
        assert isinstance(event, JobCancelled)
        heard.append((event.job, round(clock.now() - begun, 3)))

    await watcher.subscribe(ROUTE_OF[JobCancelled].pattern, hear)
    context = ServiceContext(broker.connect("n"), NodeId("n"), clock, Ids(random.Random(1)))
    service = TimeLimitService(context, limit_s=30)
    await service.start()
    for event in (started(LONG), started(SHORT)):
        watcher.publish(ROUTE_OF[JobStarted].subject(event), encode(event))
    await asyncio.sleep(5)
    end = JobFinished(job=SHORT, attempt=1, reason=FinishReason.STOP, stats=JobStats())
    watcher.publish(ROUTE_OF[JobFinished].subject(end), encode(end))
    await asyncio.sleep(55)
    assert service.fault is None
    await service.stop()
    return heard


def test_the_service_cancels_a_job_at_its_deadline() -> None:
    loop = VirtualLoop()
    try:
        heard = loop.run_until_complete(cancelled_in_a_minute())
    finally:
        loop.close()
    assert heard == [(LONG, 30.0)]
