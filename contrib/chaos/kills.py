"""`kill -9` of the speculator in the middle of streams: are the texts what they would have been, how long is the gap?

    TWD_HOME=... twd up -d --demo
    TWD_HOME=... python contrib/chaos/kills.py --streams 100

Each question is asked twice with the same seed, half of them greedily: once undisturbed, once with a kill at a random
letter of the answer. The exit code is 0 when all texts are equal and no gap was longer than `--within`.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from streams import ask, longest_gap, question

from twd.cli.chat.client import ChatClient
from twd.cli.chat.stream import StreamedAnswer
from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.process.home import StateFolder
from twd.process.supervisor import Backoff

BACK_S = 60.0
REST_AFTER = 20
"""After so many kills the last one lives long enough for the supervisor to forget those before it."""


@dataclass
class Watch:
    """What is seen of one stream: when each piece came, and what is killed at which letter of the text."""

    strike_at: int = sys.maxsize
    pid: int = 0
    letters: int = 0
    times: list[float] = field(default_factory=list)

    def piece(self, text: str) -> None:
        """A piece came."""
        if self.letters <= self.strike_at < self.letters + len(text):
            os.kill(self.pid, signal.SIGKILL)
        self.letters += len(text)
        self.times.append(time.monotonic())

    @property
    def gap_s(self) -> float:
        """The longest wait between two pieces."""
        return longest_gap(self.times)


@dataclass(frozen=True)
class Outcome:
    """One stream that was struck."""

    equal: bool
    gap_s: float
    calm_gap_s: float
    replaced: int
    trouble: str = ""


def speculator(home: StateFolder) -> int:
    """The process that has the model now; 0 while there is none."""
    instance = home.running()
    if instance is None:
        raise SystemExit(f"nothing runs in {home.path}; start it with: twd up -d --demo")
    return next((pid for name, pid in instance.processes.items() if name.startswith("speculator")), 0)


async def replaced(home: StateFolder, old: int) -> None:
    """Until another process has taken the place of the one that was killed."""
    async with asyncio.timeout(BACK_S):
        while speculator(home) in (0, old):  # noqa: ASYNC110 - a file of another process
            await asyncio.sleep(0.05)


async def undisturbed(client: ChatClient, body: dict[str, Any]) -> tuple[StreamedAnswer, Watch]:
    """The whole answer, as soon as somebody gives one: struck at its last letter, a model is on its way for a while."""
    async with asyncio.timeout(BACK_S):
        while True:
            calm = Watch()
            try:
                return await ask(client, body, calm.piece), calm
            except CommandError as error:
                print(f"     not yet: {error}", flush=True)
                await asyncio.sleep(1.0)


async def struck(client: ChatClient, home: StateFolder, body: dict[str, Any], chance: random.Random) -> Outcome:
    """Ask twice, and strike the second time."""
    whole, calm = await undisturbed(client, body)
    watch = Watch(chance.randrange(calm.letters), speculator(home))
    try:
        answer = await ask(client, body, watch.piece)
    except (CommandError, TimeoutError) as error:
        return Outcome(False, watch.gap_s, calm.gap_s, 0, f"letter {watch.strike_at}: {error or 'silence'}")
    if watch.letters > watch.strike_at:
        await replaced(home, watch.pid)
    equal = (answer.text, answer.finish_reason, answer.usage) == (whole.text, whole.finish_reason, whole.usage)
    trouble = "" if equal else f"letter {watch.strike_at}: {whole.text!r} became {answer.text!r}, {answer.usage}"
    return Outcome(equal, watch.gap_s, calm.gap_s, answer.facts.workers_replaced if answer.facts else 0, trouble)


async def run(options: argparse.Namespace) -> int:
    """All streams, one after another, then the report."""
    home = CliContext().home
    speculator(home)
    instance = home.running()
    assert instance is not None
    client, chance = ChatClient(ApiAddress(instance.addresses["api"])), random.Random(options.seed)
    outcomes: list[Outcome] = []
    try:
        for number in range(options.streams):
            outcome = await struck(client, home, question(number, options.tokens), chance)
            outcomes.append(outcome)
            told = "equal" if outcome.equal else f"NOT EQUAL {outcome.trouble}"
            if number % REST_AFTER == REST_AFTER - 1:
                await asyncio.sleep(Backoff().healthy_s)
            print(f"{number:4} gap {outcome.gap_s:5.2f} s, {outcome.replaced} replaced, {told}", flush=True)
    finally:
        await client.close()
    gaps = [outcome.gap_s for outcome in outcomes]
    equal = sum(outcome.equal for outcome in outcomes)
    calm = max(outcome.calm_gap_s for outcome in outcomes)
    print(f"{equal} of {len(outcomes)} texts equal to the undisturbed ones")
    print(f"gap: median {statistics.median(gaps):.2f} s, longest {max(gaps):.2f} s; undisturbed longest {calm:.2f} s")
    return 0 if equal == len(outcomes) and max(gaps) <= options.within else 1


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="Kill the speculator in the middle of streams; compare the texts.")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=80, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=1, help="of the places where it strikes")
    parser.add_argument("--within", type=float, default=5.0, help="seconds that a gap may last")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
