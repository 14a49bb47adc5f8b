"""kill -9 and SIGSTOP of a pool's workers in the middle of streams: are the texts equal, how long is the gap?

    TWD_HOME=... twd up -d --demo --rpc 2      # or --ring 2
    TWD_HOME=... python contrib/chaos/pool.py --streams 50

Each question is asked twice with the same seed, half of them greedily: once undisturbed, once with a blow at a random
piece of the answer. `--strike agent,coordinator` strikes those in turn instead. The exit code is 0 when all texts are
equal and no gap was longer than `--within`.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from streams import SILENCE_S, ask, longest_gap, question

from twd.cli.chat.client import ChatClient
from twd.cli.chat.stream import StreamedAnswer
from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.net.ports import listening_below
from twd.process.home import RunningInstance, StateFolder

REST_S: Final = 4.0
"""Between two blows: what was struck must be back, and count as healthy."""
BLOWS: Final = (signal.SIGKILL, signal.SIGSTOP)


@dataclass
class Watch:
    """What is seen of one stream, and the blow at one of its pieces."""

    strike_at: int = -1
    pid: int = 0
    blow: signal.Signals = signal.SIGKILL
    times: list[float] = field(default_factory=list)

    def piece(self, text: str) -> None:
        """A piece came."""
        if len(self.times) == self.strike_at:
            os.kill(self.pid, self.blow)
        self.times.append(time.monotonic())

    @property
    def gap_s(self) -> float:
        """The longest wait between two pieces."""
        return longest_gap(self.times)


@dataclass(frozen=True)
class Outcome:
    """One stream that was struck."""

    what: str
    blow: signal.Signals
    equal: bool
    gap_s: float
    calm_gap_s: float


def running(home: StateFolder) -> RunningInstance:
    """What runs in this home."""
    instance = home.running()
    if instance is None:
        raise SystemExit(f"nothing runs in {home.path}; start it with: twd up -d --demo --rpc 2")
    return instance


def targets(home: StateFolder, kind: str) -> list[int]:
    """Processes of one kind. Workers and stages are those children of the agents that listen; the others are the
    supervisor's own."""
    processes = running(home).processes
    if kind != "worker":
        return [pid for name, pid in processes.items() if name.startswith(f"{kind}.") or name == kind]
    return listening_below(pid for name, pid in processes.items() if name.startswith("agent") and pid)


async def struck(
    client: ChatClient, home: StateFolder, number: int, kinds: Sequence[str], tokens: int, chance: random.Random
) -> Outcome:
    """Ask twice, and strike the second time."""
    kind, blow, body = kinds[number % len(kinds)], BLOWS[number // len(kinds) % len(BLOWS)], question(number, tokens)
    if kind != "worker":
        blow = signal.SIGKILL
    calm = Watch()
    whole = await undisturbed(client, body, calm)
    found = await until_there(home, kind)
    watch = Watch(chance.randrange(1, max(2, len(calm.times) * 3 // 4)), chance.choice(found), blow)
    try:
        answer = await ask(client, body, watch.piece)
    except (CommandError, TimeoutError) as error:
        print(f"     {error or 'silence'}")
        return Outcome(kind, blow, False, watch.gap_s, calm.gap_s)
    equal = (answer.text, answer.finish_reason) == (whole.text, whole.finish_reason)
    return Outcome(kind, blow, equal, watch.gap_s, calm.gap_s)


async def undisturbed(client: ChatClient, body: dict[str, Any], calm: Watch) -> StreamedAnswer:
    """The whole answer; what was struck last may still be on its way back."""
    async with asyncio.timeout(SILENCE_S):
        while True:
            try:
                calm.times.clear()
                return await ask(client, body, calm.piece)
            except CommandError as error:
                print(f"     not yet: {error}")
                await asyncio.sleep(1.0)


async def until_there(home: StateFolder, kind: str) -> list[int]:
    """Those that can be struck; what was struck before may need a moment."""
    async with asyncio.timeout(SILENCE_S):
        while not (found := targets(home, kind)):  # noqa: ASYNC110 - processes of others
            await asyncio.sleep(0.1)
    return found


async def run(options: argparse.Namespace) -> int:
    """All streams, one after another, then the report."""
    home, chance = CliContext().home, random.Random(options.seed)
    client = ChatClient(ApiAddress(running(home).addresses["api"]))
    kinds = options.strike.split(",")
    outcomes: list[Outcome] = []
    try:
        for number in range(options.streams):
            outcome = await struck(client, home, number, kinds, options.tokens, chance)
            outcomes.append(outcome)
            text = "equal" if outcome.equal else "NOT EQUAL"
            print(f"{number:4} {outcome.what:12} {outcome.blow.name:8} gap {outcome.gap_s:5.2f} s, {text}", flush=True)
            await asyncio.sleep(REST_S)
    finally:
        await client.close()
    return report(outcomes, options.within)


def told(name: str, some: Sequence[Outcome]) -> str:
    """How some of the streams went."""
    gaps, equal = [one.gap_s for one in some], sum(one.equal for one in some)
    middle, longest = statistics.median(gaps), max(gaps)
    return f"{name}: {equal} of {len(some)} texts equal; gap median {middle:.2f} s, longest {longest:.2f} s"


def report(outcomes: Sequence[Outcome], within_s: float) -> int:
    """The figures, and the exit code."""
    for what, blow in dict.fromkeys((one.what, one.blow) for one in outcomes):
        print(told(f"{what} {blow.name}", [one for one in outcomes if (one.what, one.blow) == (what, blow)]))
    print(told("all", outcomes))
    print(f"undisturbed longest gap {max(one.calm_gap_s for one in outcomes):.2f} s")
    return 0 if all(one.equal and one.gap_s <= within_s for one in outcomes) else 1


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="Strike a pool's workers in the middle of streams; compare the texts.")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=1, help="of the places where it strikes")
    parser.add_argument("--within", type=float, default=5.0, help="seconds that a gap may last")
    parser.add_argument("--strike", default="worker", help="whom, in turn: worker, agent, coordinator, speculator")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
