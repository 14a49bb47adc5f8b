"""A process that holds one speculator in a memory cgroup and measures it: its plan comes on stdin as JSON."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from twd.bench.client import BenchClient
from twd.bench.mixture import AskedMixture, MixtureBench, MixtureReport, experts_mib, measure_mixture
from twd.bench.prompts import BenchPrompt
from twd.bus.memory.bus import MemoryBroker
from twd.kit.clock import SystemClock
from twd.kit.ids import Ids
from twd.kit.service import ServiceContext
from twd.settings.model import ModelConfig, Settings
from twd.speculator.targets.native import native_speculator
from twd.wire.base import ModelId, NodeId
from twd.wire.failures import TwdError
from twd.wire.leases.base import StreamedExperts
from twd.wire.service import Health


class HeldBench(msgspec.Struct, frozen=True):
    """What this process does. `procs`: the file of the cgroup to enter; empty: none."""

    name: str
    model: ModelConfig
    home: str
    prompts: list[BenchPrompt]
    max_tokens: int
    warmup: int
    memory_mib: int = 0
    procs: str = ""


async def measure(held: HeldBench) -> MixtureReport:
    """Load the model on a bus of this process alone, and measure it; raises TwdError if it does not load."""
    broker = MemoryBroker()

    def context(node: str) -> ServiceContext:
        return ServiceContext(bus=broker.connect(node), node=NodeId(node), clock=SystemClock(), ids=Ids())

    client = BenchClient(context("here"))
    settings = Settings(models={held.name: held.model}, home=held.home)
    speculator = native_speculator(context("here"), settings, held.name)

    async def experts() -> StreamedExperts | None:
        return speculator.facts().experts

    await client.start()
    await speculator.start()
    try:
        await speculator.settled.wait()
        if speculator.health is not Health.OK:
            raise SystemExit(speculator.note)
        bench = MixtureBench(held.prompts, held.max_tokens, held.warmup)
        runs, equal = await measure_mixture(AskedMixture(client, ModelId(held.name), experts), bench, _tell)
        return MixtureReport(
            model=held.name,
            at=f"in a process of its own with {held.memory_mib} MiB" if held.memory_mib else "in a process of its own",
            runs=runs,
            equal=equal,
            memory_mib=held.memory_mib,
            experts_mib=experts_mib(speculator.facts().experts),
        )
    finally:
        await client.stop("measured")
        await speculator.stop("measured")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Enter the cgroup before anything is loaded; print the report as JSON."""
    held = msgspec.json.decode(sys.stdin.buffer.read(), type=HeldBench)
    if held.procs:
        Path(held.procs).write_text(str(os.getpid()))
    try:
        report = asyncio.run(measure(held))
    except TwdError as error:
        raise SystemExit(str(error)) from None
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


if __name__ == "__main__":
    main()
