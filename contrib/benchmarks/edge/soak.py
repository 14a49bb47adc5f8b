"""Mixed load on a running installation for a long time; memory and open files of every process, from minute to minute.

    TWD_HOME=... twd up -d --demo
    TWD_HOME=... python contrib/benchmarks/edge/soak.py --minutes 30

The load: whole answers, streams, streams that are left in the middle, JSON by schema, embeddings, token counts, lists,
and nonsense. The first row after a third of the time is the measure: by then the history of 1,000 jobs is full. The
exit code is 0 when no process was replaced, none of them grew by more than `--grow` percent or leaked files, and no
answer was a 5xx.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from twd.cli.common.context import CliContext
from twd.kit.tasks import TaskGroup
from twd.process.home import RunningInstance

FILES_MORE = 24
"""Connections come and go; more open files than this beyond the first row are a leak."""
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}


@dataclass
class Load:
    """Clients that each ask one thing after another."""

    api: str
    session: aiohttp.ClientSession
    ends: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def kinds(self) -> list[Callable[[], Awaitable[None]]]:
        """What is asked, equally often."""
        return [
            self.whole,
            self.stream,
            self.leave,
            self.schema,
            self.embed,
            self.count_tokens,
            self.list_models,
            self.nonsense,
        ]

    async def client(self, seed: int) -> None:
        """Ask until cancelled."""
        chance = random.Random(seed)
        while True:
            kind = chance.choice(self.kinds)
            try:
                await kind()
            except (aiohttp.ClientError, TimeoutError) as error:
                self.ends[f"{kind.__name__} {type(error).__name__}"] += 1
                await asyncio.sleep(0.5)

    def chat_body(self, **fields: Any) -> dict[str, Any]:
        """A talk that was never held before, so that the caches have to turn over."""
        talk = [{"role": "user", "content": f"Story {next(self.numbers)}, please."}]
        return {"model": "default", "messages": talk, "max_tokens": 24, **fields}

    async def post(self, name: str, path: str, body: Any) -> None:
        """Ask, read, count."""
        async with self.session.post(self.api + path, json=body) as response:
            await response.read()
            self.ends[f"{name} {response.status}"] += 1

    async def whole(self) -> None:
        await self.post("whole", "/v1/chat/completions", self.chat_body())

    async def schema(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
        await self.post("schema", "/v1/chat/completions", self.chat_body(response_format=form))

    async def embed(self) -> None:
        await self.post("embed", "/v1/embeddings", {"input": [f"text {next(self.numbers)}", "another"]})

    async def count_tokens(self) -> None:
        await self.post("count", "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "how long?"}]})

    async def nonsense(self) -> None:
        await self.post("nonsense", "/v1/chat/completions", {"messages": [], "colour": next(self.numbers)})

    async def list_models(self) -> None:
        async with self.session.get(f"{self.api}/v1/models") as response:
            await response.read()
            self.ends[f"list {response.status}"] += 1

    async def stream(self, leave_after: int = 0) -> None:
        body = self.chat_body(stream=True, max_tokens=200 if leave_after else 24)
        async with self.session.post(f"{self.api}/v1/chat/completions", json=body) as response:
            chunks = 0
            async for _ in response.content:
                chunks += 1
                if leave_after and chunks >= leave_after:
                    break
            self.ends[f"{'leave' if leave_after else 'stream'} {response.status}"] += 1
            if leave_after:
                response.close()

    async def leave(self) -> None:
        await self.stream(leave_after=6)


@dataclass(frozen=True)
class Figures:
    """One process at one moment."""

    pid: int
    mib: float
    files: int


def look(instance: RunningInstance) -> dict[str, Figures]:
    """Every process of the installation; what a process started itself counts with it."""
    return {name: _figures(pid) for name, pid in {"supervisor": instance.pid, **instance.processes}.items()}


def _figures(pid: int) -> Figures:
    try:
        process = psutil.Process(pid)
        return Figures(pid, process.memory_info().rss / 2**20, process.num_fds())
    except psutil.NoSuchProcess:
        return Figures(0, 0.0, 0)


def verdicts(first: dict[str, Figures], last: dict[str, Figures], grow: float) -> list[str]:
    """What is wrong at the end."""
    wrong: list[str] = []
    for name, before in first.items():
        now = last.get(name, Figures(0, 0.0, 0))
        if now.pid != before.pid:
            wrong.append(f"{name} was replaced (pid {before.pid} -> {now.pid})")
        elif now.mib > before.mib * (1 + grow / 100):
            wrong.append(f"{name} grew from {before.mib:.1f} to {now.mib:.1f} MiB")
        elif now.files > before.files + FILES_MORE:
            wrong.append(f"{name} has {now.files} files open, {before.files} at first")
    return wrong


def running(ctx: CliContext) -> RunningInstance:
    """The installation that runs in TWD_HOME."""
    instance = ctx.home.running()
    if instance is None or "api" not in instance.addresses:
        raise SystemExit(f"nothing runs in {ctx.home.path}; start it with: twd up -d --demo")
    return instance


def row(minutes: float, figures: dict[str, Figures], done: int) -> None:
    """One line of the table."""
    parts = [f"{name} {one.mib:.1f} MiB {one.files} files" for name, one in figures.items()]
    print(f"{minutes:5.1f} min, {done} requests: " + "; ".join(parts), flush=True)


async def soak(options: argparse.Namespace) -> int:
    """Load, look, and judge."""
    ctx = CliContext()
    began = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        load = Load(running(ctx).addresses["api"], session)
        clients = TaskGroup("soak", lambda name, error: sys.exit(f"{name}: {error!r}"))
        for seed in range(options.clients):
            clients.start(f"client {seed}", load.client(seed))
        first: dict[str, Figures] = {}
        while (passed := (time.monotonic() - began) / 60) < options.minutes:
            await asyncio.sleep(min(options.every, options.minutes * 6))
            figures = look(running(ctx))
            row((time.monotonic() - began) / 60, figures, load.ends.total())
            if passed * 3 >= options.minutes:
                first = first or figures
        await clients.close()
    await asyncio.sleep(2)
    last = look(running(ctx))
    row((time.monotonic() - began) / 60, last, load.ends.total())
    print(json.dumps(dict(sorted(load.ends.items()))))
    wrong = verdicts(first or last, last, options.grow)
    wrong += [f"{end}: {count} times" for end, count in load.ends.items() if end.split()[-1].startswith("5")]
    for one in wrong:
        print(f"wrong: {one}")
    return 1 if wrong else 0


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--every", type=float, default=60.0, help="seconds from row to row")
    parser.add_argument("--grow", type=float, default=10.0, help="percent that a process may grow")
    return asyncio.run(soak(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
