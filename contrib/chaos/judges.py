"""`kill -9` and SIGSTOP of members, judge, gate and racer at any time of an answer: whole answers, nothing twice.

    TWD_HOME=/tmp/judges python contrib/chaos/judges.py --strikes 100

It starts an installation of its own in TWD_HOME: one model that judges, two copies with coarser weights that write, and
two drafters that vote. Each question is asked of the model itself, then undisturbed of `NAME+gate` (of
`NAME+consensus` where the racer is struck), then again with a blow at a random time of that answer. The exit code is
0 when all answers were whole, those that are marked exact equal the model's own, and no gap was longer than `--within`.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
from streams import ask, longest_gap, question

from twd.cli.chat.client import ChatClient
from twd.cli.chat.stream import StreamedAnswer
from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import CliContext
from twd.engine.demo_model import demo_model
from twd.kit.errors import CommandError
from twd.process.home import RunningInstance, StateFolder

VICTIMS: Final = ("speculator.quick", "speculator.big", "gate", "racer")
BLOWS: Final = (signal.SIGKILL, signal.SIGSTOP)
WEIGHTS: Final = {"big": "f16", "quick": "q8_0", "poor": "q4_0"}
BACK_S: Final = 60.0
REST_S: Final = 6.0
"""Between two blows: what was struck must be back, and count as healthy."""
SETTINGS: Final = """\
agent: {{port: 0}}
mode: speculate
models:
{models}
drafters:
  - {{path: '{quick}', for_model: big}}
  - {{path: '{poor}', for_model: big}}
gate: {{fleet: [quick, poor], economy: false, hold: 12, audit: 0.0, cache_identical: false}}
consensus: {{policy: majority}}
"""


@dataclass
class Watch:
    """One stream: when each piece came, and the blow."""

    began: float = field(default_factory=time.monotonic)
    times: list[float] = field(default_factory=list)
    struck_behind: int = -1
    """How many pieces had come when it was struck; -1: it had ended before."""

    def piece(self, text: str) -> None:
        """A piece came."""
        self.times.append(time.monotonic())

    async def strike(self, pid: int, blow: signal.Signals, after_s: float) -> None:
        """Strike a process after some seconds."""
        await asyncio.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, blow)
            self.struck_behind = len(self.times)

    @property
    def gap_s(self) -> float:
        """The longest wait for a piece; the first one is waited for from the question on."""
        return longest_gap([self.began, *self.times])


@dataclass(frozen=True)
class Outcome:
    """One answer during which something was struck."""

    victim: str
    blow: signal.Signals
    phase: str
    gap_s: float
    trouble: str = ""
    calm_gap_s: float = 0.0
    """The longest gap of the same answer undisturbed."""


@contextmanager
def installation(home: StateFolder) -> Iterator[RunningInstance]:
    """An installation for this script alone; one that runs already is used as it is."""
    known = home.running()
    if known is not None:
        yield known
        return
    files = {name: demo_model(home.path / "cache", kind) for name, kind in WEIGHTS.items()}
    models = "\n".join(f"  {name}: {{path: '{path}', ctx_size: 512, parallel: 2}}" for name, path in files.items())
    settings = home.path / "judges.yaml"
    settings.write_text(SETTINGS.format(models=models, **{name: str(path) for name, path in files.items()}))
    twd = (sys.executable, "-m", "twd", "-c", str(settings))
    signal.signal(signal.SIGTERM, _end)
    try:
        subprocess.run([*twd, "up", "-d", "--wait=all"], check=True)
        running = home.running()
        assert running is not None
        yield running
    finally:
        subprocess.run([*twd, "down"], check=True)


def _end(number: int, frame: object) -> None:
    """End as by an error, so that nothing is left running."""
    raise SystemExit(f"ended by signal {number}")


def pid_of(home: StateFolder, name: str) -> int:
    """The process of this name now; 0: there is none."""
    instance = home.running()
    if instance is None:
        raise SystemExit(f"nothing runs in {home.path} any more")
    return instance.processes.get(name, 0)


async def replaced(home: StateFolder, name: str, old: int) -> None:
    """Until another process is in the place of the one that was struck."""
    async with asyncio.timeout(BACK_S):
        while pid_of(home, name) in (0, old) or psutil.pid_exists(old):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    await asyncio.sleep(REST_S)


async def calm(client: ChatClient, body: dict[str, Any]) -> tuple[StreamedAnswer, Watch, float]:
    """An undisturbed answer, when its pieces came and its time, as soon as somebody gives one."""
    async with asyncio.timeout(BACK_S):
        while True:
            watch = Watch()
            try:
                return await ask(client, body, watch.piece), watch, time.monotonic() - watch.began
            except CommandError as error:
                print(f"     not yet: {error}", flush=True)
                await asyncio.sleep(1.0)


class Strikes:
    """Questions, what the model itself says to them, and blows while they are answered."""

    def __init__(self, client: ChatClient, home: StateFolder, options: argparse.Namespace) -> None:
        self.client = client
        self.home = home
        self.tokens: int = options.tokens
        self.questions: int = options.questions
        self.dice = random.Random(options.seed)
        self.own: dict[int, StreamedAnswer] = {}

    async def one(self, number: int, victim: str, blow: signal.Signals) -> Outcome:
        """Ask undisturbed, and again with a blow."""
        chosen = number % self.questions
        asked = question(chosen, self.tokens) | {"model": "big"}
        if chosen not in self.own:
            self.own[chosen] = (await calm(self.client, asked))[0]
        judged = asked | {"model": "big+consensus" if victim == "racer" else "big+gate"}
        _, undisturbed, took_s = await calm(self.client, judged)
        pid, watch = pid_of(self.home, victim), Watch()
        after_s = self.dice.random() * took_s
        answer, trouble = StreamedAnswer(), ""
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.strike(pid, blow, after_s))
            try:
                answer = await ask(self.client, judged, watch.piece)
            except (CommandError, TimeoutError) as error:
                trouble = f"{error or 'silence'}"
        trouble = trouble or self._wrong(answer, self.own[chosen])
        phase = self._phase(watch, answer)
        outcome = Outcome(victim, blow, phase, watch.gap_s, trouble, undisturbed.gap_s)
        await replaced(self.home, victim, pid)
        return outcome

    def _phase(self, watch: Watch, answer: StreamedAnswer) -> str:
        if watch.struck_behind == 0:
            return "before the first piece"
        return "in the text" if watch.struck_behind < len(watch.times) else "at the end"

    def _wrong(self, answer: StreamedAnswer, own: StreamedAnswer) -> str:
        """What is wrong with an answer; an approximate one may have another text, and must be whole."""
        if not answer.done or not answer.finish_reason or answer.usage is None or answer.facts is None:
            return "it is not whole"
        if answer.facts.approximate:
            return "" if answer.usage.completion_tokens <= self.tokens else f"{answer.usage.completion_tokens} tokens"
        if answer.text != own.text or answer.finish_reason != own.finish_reason:
            return f"{own.text!r} became {answer.text!r}, {answer.facts.verdict} {answer.facts.why}"
        return "" if answer.usage == own.usage else f"{own.usage} became {answer.usage}"


def report(outcomes: Sequence[Outcome], within_s: float) -> bool:
    """Print the table; returns whether all is as it should be."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.victim, one.blow.name, one.phase), []).append(one)
    print("| struck | by | when | times | whole | gap: median | longest | undisturbed |")
    print("|---|---|---|---|---|---|---|---|")
    for (victim, blow, phase), members in sorted(groups.items()):
        gaps = [one.gap_s for one in members]
        whole = sum(not one.trouble for one in members)
        print(
            f"| {victim} | {blow} | {phase} | {len(members)} | {whole} | {statistics.median(gaps):.2f} s "
            f"| {max(gaps):.2f} s | {statistics.median(one.calm_gap_s for one in members):.2f} s |"
        )
    longest = max(one.gap_s for one in outcomes)
    whole = sum(not one.trouble for one in outcomes)
    print(f"{whole} of {len(outcomes)} answers whole, longest gap {longest:.2f} s")
    return whole == len(outcomes) and longest <= within_s


async def run(options: argparse.Namespace) -> int:
    """All strikes, one after another, then the report."""
    home = CliContext().home
    home.prepare()
    outcomes: list[Outcome] = []
    with installation(home) as instance:
        client = ChatClient(ApiAddress(instance.addresses["api"]))
        strikes = Strikes(client, home, options)
        kinds = [(victim, blow) for blow in BLOWS for victim in options.only or VICTIMS]
        try:
            for number in range(options.first, options.first + options.strikes):
                one = await strikes.one(number, *kinds[number % len(kinds)])
                outcomes.append(one)
                told = "whole" if not one.trouble else f"NOT WHOLE {one.trouble}"
                print(
                    f"{number:4} {one.victim} {one.blow.name} {one.phase}: gap {one.gap_s:5.2f} s, "
                    f"undisturbed {one.calm_gap_s:5.2f} s, {told}",
                    flush=True,
                )
        finally:
            await client.close()
    return 0 if report(outcomes, options.within) else 1


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="Strike members, judge, gate and racer while they answer.")
    parser.add_argument("--strikes", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the number of the first one, to go on with a table")
    parser.add_argument("--only", nargs="*", choices=VICTIMS, help="strike only these")
    parser.add_argument("--questions", type=int, default=6, help="so many different ones")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=1, help="of the times at which it strikes")
    parser.add_argument("--within", type=float, default=6.0, help="seconds that a gap may last")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
