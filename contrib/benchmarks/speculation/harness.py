"""What the benchmarks share: a system of real processes, cores given out, a link with delay."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from twd.bench.client import BenchClient, BenchRequest, MeasuredAnswer
from twd.bench.prompts import BenchPrompt
from twd.cli.common.context import CliContext
from twd.decoding.window import Window
from twd.engine.demo_model import demo_model
from twd.engine.loading import NativeModel
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.wire.base import ModelId
from twd.wire.job import Sampling

CACHE = Path.home() / ".cache" / "twd-bench"
MODEL = ModelId("target")
TWD = (sys.executable, "-P", "-m", "twd")


def weights(kind: str) -> Path:
    """The demo model with these weights."""
    return demo_model(CACHE, kind)


def spoken(native: NativeModel, tokens: Sequence[int], count: int) -> Iterator[int]:
    """The bare engine loop: what the model says after these tokens, one by one, past the end of an answer."""
    sampler = native.samplers.sampler(Sampling(), 0, prompt_len=len(tokens), ignore_eos=True)
    slot, at = native.target.open(tokens, sampler)
    feed = tuple(tokens[at:])
    for _ in range(count):
        native.target.submit([Window(slot, 0, at, feed, None, committed=len(feed))])
        (verdict,) = native.target.collect()
        (token,) = verdict.tokens
        yield token
        at, feed = at + len(feed), (token,)
    native.target.close(slot)


class System:
    """One `twd up -d` with a state folder of its own; `more` are further words of that command."""

    def __init__(self, home: Path, settings: dict[str, Any], more: Sequence[str] = ()) -> None:
        self.home, self._more = home, more
        home.mkdir(parents=True, exist_ok=True)
        self.file = home / "bench.yaml"
        self.file.write_text(yaml.safe_dump(settings), "utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TWD_")}
        own = {"TWD_HOME": str(home), "TWD_CONFIG": str(self.file), "TWD_EDGE_PORT": "0", "NO_COLOR": "1"}
        self.environment = {**kept, **own}
        self.told: dict[str, Any] = {}
        self._others: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Return when everything is ready."""
        command = [*TWD, "-c", str(self.file), "up", "-d", "--json", *self._more]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the system does not start: {done.stdout}{done.stderr}")
        self.told = json.loads(done.stdout)

    def pid(self, prefix: str) -> int:
        """The process whose name begins so."""
        return int(next(one["pid"] for name, one in self.told["processes"].items() if name.startswith(prefix)))

    def pids(self) -> list[int]:
        """All processes that were started here."""
        return [one["pid"] for one in self.told["processes"].values()] + [one.pid for one in self._others]

    def ctx(self) -> CliContext:
        """The system as a command sees it."""
        return CliContext(str(self.file), self.environment)

    def also(self, *arguments: str, cores: set[int] | None = None, **environment: str) -> "subprocess.Popen[bytes]":
        """One more process of twd beside it."""
        process = subprocess.Popen(
            [*TWD, *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        self._others.append(process)
        return process

    def stop(self) -> None:
        """End everything that was started."""
        for process in self._others:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        subprocess.run([*TWD, "down"], env=self.environment, capture_output=True, check=False)


@asynccontextmanager
async def client_of(system: System) -> AsyncIterator[BenchClient]:
    """Somebody who asks, on the system's bus."""
    ctx = system.ctx()
    async with ctx.bus("bench") as bus:
        client = BenchClient(ServiceContext(bus=bus, node=ctx.node, clock=SystemClock(), ids=Ids()))
        await client.start()
        try:
            yield client
        finally:
            await client.stop("done")


def give_cores(pid: int, cores: set[int]) -> None:
    """Keep all threads of a process on these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


async def ask_all(client: BenchClient, prompts: list[BenchPrompt], how: BenchRequest) -> list[MeasuredAnswer]:
    """One after the other."""
    return [await client.answer(MODEL, prompt, how) for prompt in prompts]


def rate(answers: list[MeasuredAnswer]) -> float:
    """Tokens per second over some answers, after the first token of each."""
    tokens = sum(max(0, len(answer.tokens) - 1) for answer in answers)
    return 1000 * tokens / sum(answer.stats.decode_ms for answer in answers)


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
    """Wait for something, with a deadline."""
    give_up = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > give_up:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.1)
