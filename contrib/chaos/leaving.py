"""Clients that leave in the middle of an answer of `NAME+gate`: how soon no job works for them any more.

    TWD_HOME=/tmp/judges python contrib/chaos/leaving.py --times 50

It uses the installation of `judges.py`, and starts it if none runs. Jobs are heard on the bus: from JobStarted until
JobFinished or JobFailed. The exit code is 0 when all jobs of a client that left had ended within `--within` seconds.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from typing import ClassVar

from judges import installation
from streams import question

from twd.cli.chat.client import ChatClient
from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import CliContext
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import Effects, Service, ServiceContext
from twd.kit.tasks import TaskGroup
from twd.wire.base import Event, JobId
from twd.wire.job import JobFailed, JobFinished, JobStarted

LIMIT_S = 30.0


class Listener(Service):
    """Knows which jobs run, and when the last one ended."""

    name = "leaving"
    reads: ClassVar[tuple[type[Event], ...]] = (JobStarted, JobFinished, JobFailed)

    def __init__(self, ctx: ServiceContext) -> None:
        super().__init__(ctx)
        self.open: set[JobId] = set()
        self.ended_at = 0.0

    def on_job_started(self, event: JobStarted) -> Effects:
        """A job runs."""
        self.open.add(event.job)
        return None

    def on_job_finished(self, event: JobFinished) -> Effects:
        """It has finished."""
        return self._end(event.job)

    def on_job_failed(self, event: JobFailed) -> Effects:
        """It was cancelled, or failed."""
        return self._end(event.job)

    def _end(self, job: JobId) -> Effects:
        self.open.discard(job)
        self.ended_at = time.monotonic()
        return None

    async def idle(self) -> None:
        """Until no job runs."""
        async with asyncio.timeout(LIMIT_S):
            while self.open:  # noqa: ASYNC110 - events of other processes
                await asyncio.sleep(0.005)


async def leave(client: ChatClient, listener: Listener, number: int, after_s: float, tokens: int) -> tuple[int, float]:
    """Ask, and hang up after some seconds: how many jobs ran then, and how long until the last one had ended."""
    tasks = TaskGroup("leaving", lambda name, error: print(error))
    asking = tasks.start("ask", client.ask(question(number, tokens) | {"model": "big+gate"}, lambda text: None))
    await asyncio.wait([asking], timeout=after_s)
    running, left_at = len(listener.open), time.monotonic()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks.close()
    await listener.idle()
    return running, max(0.0, listener.ended_at - left_at) if running else 0.0


async def run(options: argparse.Namespace) -> int:
    """All of them, one after another."""
    context, dice = CliContext(), random.Random(options.seed)
    context.home.prepare()
    found: list[tuple[int, float]] = []
    with installation(context.home) as instance:
        client = ChatClient(ApiAddress(instance.addresses["api"]))
        async with context.bus("admin") as bus:
            listener = Listener(ServiceContext(bus=bus, node=context.node, clock=SystemClock(), ids=Ids()))
            await listener.start()
            began = time.monotonic()
            await client.ask(question(0, options.tokens) | {"model": "big+gate"}, lambda text: None)
            usual_s = time.monotonic() - began
            for number in range(1, options.times + 1):
                await listener.idle()
                found.append(await leave(client, listener, number, dice.random() * usual_s, options.tokens))
                print(f"{number:4} {found[-1][0]} jobs ran, ended after {found[-1][1] * 1000:6.1f} ms", flush=True)
            await listener.stop("done")
        await client.close()
    took = [seconds for running, seconds in found if running]
    longest = max(took, default=0.0)
    print(
        f"{len(took)} of {options.times} left while jobs ran; all ended after "
        f"{statistics.median(took) * 1000:.0f} ms (median), {longest * 1000:.0f} ms (longest)"
    )
    return 0 if longest <= options.within else 1


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="Hang up in the middle of answers; hear when all jobs have ended.")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=1, help="of the times at which it leaves")
    parser.add_argument("--within", type=float, default=0.2, help="seconds until the last job has ended")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
