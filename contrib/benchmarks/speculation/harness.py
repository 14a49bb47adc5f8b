"""What the benchmarks share: a system of real processes, cores given out, a link with delay."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twd.bench.client import BenchClient, BenchRequest, MeasuredAnswer
from twd.bench.product.whole_system import TWD, WholeSystem
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


class System(WholeSystem):
    """A system beside which further processes run, and on whose bus one can ask."""

    def __init__(self, home: Path, settings: dict[str, Any], more: Sequence[str] = ()) -> None:
        super().__init__(home, settings, more)
        self._others: list[subprocess.Popen[bytes]] = []

    def pids(self) -> list[int]:
        """All processes that were started here."""
        return [*self.processes().values(), *(one.pid for one in self._others)]

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
        super().stop()


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
