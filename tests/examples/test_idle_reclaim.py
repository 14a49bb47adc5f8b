"""The example of docs/adding-a-service.md works as the page says."""

import asyncio
import random

from contrib.examples.idle_reclaim.core import JOBS_MAX, IdleWatch
from contrib.examples.idle_reclaim.service import IdleReclaimService
from tests.sim.virtual_loop import VirtualLoop
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import LoopClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.wire.base import JobId, ModelId, NodeId, SessionId
from twd.wire.codec import encode
from twd.wire.job import FinishReason, JobFinished, JobStarted, JobStats
from twd.wire.life import ReclaimWanted
from twd.wire.routes import ROUTE_OF

LONG, SHORT = JobId("long"), JobId("short")


def test_idle_begins_when_the_last_job_ends_and_is_told_once() -> None:
    watch = IdleWatch(idle_s=10)
    watch.started(LONG)
    watch.started(SHORT)
    assert watch.ended(SHORT, now=1) is None
    assert watch.ended(LONG, now=5) == 15
    assert not watch.take_due(now=14.9)
    assert watch.take_due(now=15)
    assert not watch.take_due(now=99)


def test_a_job_that_starts_ends_the_idle_time() -> None:
    watch = IdleWatch(idle_s=10)
    watch.started(LONG)
    watch.ended(LONG, now=0)
    watch.started(SHORT)
    assert not watch.take_due(now=99)


def test_the_table_is_bounded() -> None:
    watch = IdleWatch(idle_s=1)
    for number in range(JOBS_MAX + 5):
        watch.started(JobId(f"j{number}"))
    assert watch.running == JOBS_MAX


def started(job: JobId) -> JobStarted:
    return JobStarted(job=job, attempt=1, session=SessionId(job), model=ModelId("m"), prompt_tokens=3)


def finished(job: JobId) -> JobFinished:
    return JobFinished(job=job, attempt=1, reason=FinishReason.STOP, stats=JobStats())


async def reclaimed_at() -> list[float]:
    """Run the service on a bus in memory, in virtual time; returns when it asked for memory."""
    broker, clock = MemoryBroker(), LoopClock()
    watcher, begun = broker.connect("watcher"), clock.now()
    heard: list[float] = []
    route = ROUTE_OF[ReclaimWanted]
    await watcher.subscribe(route.pattern, lambda _: heard.append(round(clock.now() - begun, 3)))
    context = ServiceContext(broker.connect("n"), NodeId("n"), clock, Ids(random.Random(1)))
    service = IdleReclaimService(context, idle_s=30)
    await service.start()
    for event, pause_s in ((started(LONG), 0), (started(SHORT), 5), (finished(SHORT), 5), (finished(LONG), 60)):
        watcher.publish(ROUTE_OF[type(event)].subject(event), encode(event))
        await asyncio.sleep(pause_s)
    assert service.fault is None
    await service.stop()
    return heard


def test_the_service_asks_for_memory_after_the_idle_time() -> None:
    loop = VirtualLoop()
    try:
        assert loop.run_until_complete(reclaimed_at()) == [40.0]
    finally:
        loop.close()
