"""An edge on a port of its own, with a scripted speculator and real metrics behind it: what a fuzzer knocks at.

usage: python -m contrib.fuzz.serve PORT     (in the root of the source tree)
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack

import msgspec

from tests.edge.conftest import ctx
from tests.edge.fake_speculator import WORDS, FakeSpeculator, Script
from tests.edge.test_tools import HERMES
from twd.bus.memory.bus import MemoryBroker
from twd.edge.service import EdgeService
from twd.metrics.service import MetricsService
from twd.settings.model import Settings
from twd.wire.job import JobSubmitted


def words_for(job: JobSubmitted) -> list[str]:
    """A call where tools are on offer, else words."""
    return HERMES if job.prompt.tools else WORDS


async def serve(port: int) -> None:
    """Until killed, or until the edge faults."""
    broker = MemoryBroker()
    with tempfile.TemporaryDirectory(prefix="twd-fuzz-") as home:
        settings = msgspec.convert({"home": home, "edge": {"port": port}}, Settings)
        edge = EdgeService(ctx(broker, 3), settings)
        model = FakeSpeculator(ctx(broker, 2), Script(choose=words_for))
        services = [model, MetricsService(ctx(broker, 8), settings), edge]
        async with AsyncExitStack() as stack:
            for service in services:
                await service.start()
                stack.push_async_callback(service.stop)
            await edge.ended.wait()
        raise SystemExit(f"the edge faulted: {edge.fault!r}")


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
