"""A thousand streams that are open and say nothing, and a client that does not read: the edge's memory, and the others.

    python contrib/benchmarks/edge/crowd.py     (in the root of the source tree)

The edge runs in a process of its own, with a scripted speculator beside it that shows life for every job each second,
so the figures are upper bounds. The exit code is 0 when every stream was open at once, a short request was answered all
the time, and jobs and open files were gone in the end.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

FILES = 8192
FLOOD_WORDS = 60_000
GONE_S = 30.0


async def serve(streams: int) -> None:
    """The edge and its model; the port goes to stdout."""
    import msgspec

    from tests.edge.conftest import ctx
    from tests.edge.fake_speculator import FakeSpeculator, Script
    from twd.bus.memory.bus import MemoryBroker
    from twd.edge.service import EdgeService
    from twd.settings.model import Settings
    from twd.wire.base import SessionId
    from twd.wire.job import JobSubmitted, TokensAccepted

    scripts = {
        "idle": Script(hang_after=2),
        "flood": Script(words=["many words " * 8] * FLOOD_WORDS),
        "short": Script(),
    }

    def _sign_of_life(job: JobSubmitted) -> TokensAccepted:
        return TokensAccepted(job=job.job, attempt=job.attempt, session=SessionId(""), at=0, index=0, tokens=[])

    class Model(FakeSpeculator):
        """Does what the question says."""

        tick_s = 1.0

        async def _play(self, job: JobSubmitted, script: Script) -> None:
            messages = job.prompt.messages or []
            await super()._play(job, scripts[messages[0].content])

        def tick(self, now: float) -> None:
            for job in self.jobs:
                if job.job not in self.cancelled:
                    self.emit(_sign_of_life(job))

    with tempfile.TemporaryDirectory(prefix="twd-crowd-") as home:
        broker = MemoryBroker()
        settings = msgspec.convert({"home": home, "edge": {"port": 0, "max_queue": 2 * streams}}, Settings)
        model, edge = Model(ctx(broker, 2)), EdgeService(ctx(broker, 3), settings)
        await model.start()
        await edge.start()
        print(edge.server.port, flush=True)
        await edge.ended.wait()


@contextmanager
def server(streams: int) -> Iterator[tuple[str, psutil.Process]]:
    """The edge in a process of its own."""
    argv = [sys.executable, __file__, "--serve", "--streams", str(streams)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


class Crowd:
    """Clients of one edge."""

    def __init__(self, session: aiohttp.ClientSession, url: str, process: psutil.Process) -> None:
        self.session = session
        self.url = url
        self.process = process

    def body(self, kind: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": kind}], "stream": True}

    async def open(self, kind: str) -> aiohttp.ClientResponse:
        """A stream of which the first piece has come."""
        response = await self.session.post(f"{self.url}/v1/chat/completions", json=self.body(kind))
        await response.content.readany()
        return response

    async def short_ms(self) -> float:
        """How long a short answer takes now."""
        began = time.perf_counter()
        async with await self.open("short") as response:
            await response.read()
        return (time.perf_counter() - began) * 1000

    async def jobs(self) -> int:
        async with self.session.get(f"{self.url}/v1/twd/status") as response:
            return int((await response.json())["edge"]["jobs"])

    async def tell(self, when: str) -> float:
        """One line of figures; returns the memory."""
        mib, files = self.process.memory_info().rss / 2**20, self.process.num_fds()
        waits = sorted([await self.short_ms() for _ in range(20)])
        about = f"{mib:7.1f} MiB {files:5} files {await self.jobs():5} jobs"
        print(f"{when:24} {about}   a short answer: median {waits[10]:.1f} ms, longest {waits[-1]:.1f} ms", flush=True)
        return mib

    async def gone(self) -> bool:
        """Whether all jobs end soon."""
        end = time.monotonic() + GONE_S
        while await self.jobs():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.1)
        return True

    async def turn(self, streams: int, before: float) -> bool:
        """All come, one of them does not read, all leave; whether their jobs end."""
        opened = [await self.open("idle") for _ in range(streams)]
        during = await self.tell(f"{streams} idle streams")
        print(f"{(during - before) * 1024 / streams:.0f} KiB more for each stream")
        opened.append(await self.open("flood"))
        await asyncio.sleep(5)
        await self.tell("and one does not read")
        for response in opened:
            response.close()
        gone = await self.gone()
        await asyncio.sleep(1)
        return gone


async def crowd(streams: int) -> int:
    """Fill the edge, look at it, leave it."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    with server(streams) as (url, process):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            one = Crowd(session, url, process)
            await one.tell("at first")
            files = process.num_fds()
            before = await one.tell("after 20 requests")
            for turn in range(2):
                gone = await one.turn(streams, before)
                before = await one.tell(f"after all left, turn {turn + 1}")
            left = process.num_fds() - files
    print(json.dumps({"streams": streams, "jobs_gone": gone, "files_left": left}))
    return 0 if gone and left < 10 else 1


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="Many idle streams and a slow reader before one edge.")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    if options.serve:
        asyncio.run(serve(options.streams))
        return 0
    return asyncio.run(crowd(options.streams))


if __name__ == "__main__":
    sys.exit(main())
