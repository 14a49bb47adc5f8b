"""A machine joins a pool: what happens until the model's first token comes over it, step by step, with times.

    TWD_HOME=... twd up -d --demo --rpc 1      # or --ring 1
    TWD_HOME=... python contrib/chaos/join.py --times 3

Each time an agent is started that plays one more machine, and ended again when it was used. The exit code is 0 when
every join took less than `--within`.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from streams import SILENCE_S, ask, question

from twd.bus.base import Bus, BusMessage, LeaseEntry
from twd.cli.chat.client import ChatClient
from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import CliContext
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.process.home import RESOLVED_VARIABLE
from twd.supervisor.processes import RUN
from twd.wire.base import Event
from twd.wire.codec import decode
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.model import ModelReady
from twd.wire.node import NodeChanged, ProcessStarted
from twd.wire.placement import PlacementDecided
from twd.wire.ring import StageReady
from twd.wire.routes import EVERYTHING
from twd.wire.service import ServiceExited, ServiceFaulted, ServiceStarted, read_lease, told_by

LOOK_S: Final = 0.05
USED: Final = "the first token over it"


@dataclass
class Story:
    """When each step was heard of first, in seconds since the agent was started."""

    node: str
    began: float = field(default_factory=time.monotonic)
    steps: dict[str, float] = field(default_factory=dict)

    def note(self, step: str) -> None:
        """It happened, perhaps again."""
        self.steps.setdefault(step, time.monotonic() - self.began)

    def hear(self, message: BusMessage) -> None:
        """Anything that is said on the bus."""
        event = decode(message.data)
        if isinstance(event, Event) and (step := self._step(event)):
            self.note(step)

    def _step(self, event: Event) -> str:
        placed = "the coordinator places the model on it" in self.steps
        match event:
            case ServiceStarted(service="agent", node=self.node):
                return "its agent is on the bus"
            case NodeChanged(node=self.node) if not event.facts.looking:
                return "it has looked round"
            case PlacementDecided() if any(piece.node == self.node for piece in event.slices):
                return "the coordinator places the model on it"
            case ProcessStarted(node=self.node):
                return f"its {event.facts.kind} process {'answers' if event.facts.version else 'is started'}"
            case StageReady(node=self.node):
                return "its stage has its layers in memory"
            case ServiceFaulted(service="speculator") if placed:
                return "the speculator leaves its old places"
            case ServiceExited() if placed and event.service.startswith("speculator"):
                return "the speculator's process has ended"
            case ServiceStarted(service="speculator") if placed:
                return "the speculator is back on the bus"
            case ModelReady() if placed:
                return "the model is loaded"
            case _:
                return ""


@asynccontextmanager
async def machine(ctx: CliContext, name: str, rtt_ms: float) -> AsyncIterator[None]:
    """One more machine, played by an agent of its own."""
    environment = {**os.environ, RESOLVED_VARIABLE: str(ctx.home.settings_file)}
    with (ctx.home.logs / f"agent.{name}.log").open("ab") as log:
        agent = await asyncio.create_subprocess_exec(
            *(*RUN, "agent", "--node", name, "--link-rtt", f"{rtt_ms:g}"), stdout=log, stderr=log, env=environment
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            agent.terminate()
        await asyncio.wait_for(agent.wait(), SILENCE_S)


async def lies_on(bus: Bus, node: str) -> bool:
    """Whether the model is served over a machine now, by its speculator's own word."""
    entries: list[LeaseEntry] = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    leases = [read_lease(entry.value, entry.key) for entry in entries if entry.key.startswith("speculator.")]
    shown = [part for _, facts in told_by(leases, SpeculatorFacts) if facts.ready for part in facts.pool]
    return any(part.startswith((f"{node}/", f"{node} ")) for part in shown)


async def until_it_lies(bus: Bus, node: str, there: bool) -> None:
    """Until the model is served over a machine, or is not any more."""
    async with asyncio.timeout(SILENCE_S):
        while await lies_on(bus, node) is not there:  # noqa: ASYNC110 - a lease tells nobody that it changed
            await asyncio.sleep(LOOK_S)


async def join(ctx: CliContext, ear: Bus, bus: Bus, client: ChatClient, number: int, rtt_ms: float) -> Story:
    """One machine comes, is used, and leaves."""
    name = f"join-{os.getpid()}-{number}"
    story = Story(name)
    listening = await ear.subscribe(EVERYTHING, story.hear)
    try:
        async with machine(ctx, name, rtt_ms):
            await until_it_lies(bus, name, True)
            story.note("the model is served over it")
            await ask(client, question(number, 2), lambda text: story.note(USED))
    finally:
        await listening.close()
    await until_it_lies(bus, name, False)
    return story


async def run(options: argparse.Namespace) -> int:
    """All joins, one after another, then the report."""
    ctx = CliContext()
    instance = ctx.home.running()
    if instance is None:
        raise SystemExit(f"nothing runs in {ctx.home.path}; start it with: twd up -d --demo --rpc 1")
    client = ChatClient(ApiAddress(instance.addresses["api"]))
    stories: list[Story] = []
    async with ctx.bus() as ear, ctx.bus("status") as reader:
        try:
            for number in range(options.times):
                story = await join(ctx, ear, reader, client, number, options.link_rtt)
                stories.append(story)
                print(f"{story.node}:")
                for step, at in sorted(story.steps.items(), key=lambda item: item[1]):
                    print(f"  {at:6.2f} s  {step}", flush=True)
        finally:
            await client.close()
    took = [story.steps[USED] for story in stories]
    print(f"{len(took)} joins: median {statistics.median(took):.2f} s, longest {max(took):.2f} s until the first token")
    return 0 if max(took) <= options.within else 1


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="Let machines join a pool; print what happens until they are used.")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--link-rtt", type=float, default=0.0, help="milliseconds to and from the new machine")
    parser.add_argument("--within", type=float, default=5.0, help="seconds until the first token over it")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
