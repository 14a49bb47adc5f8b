"""Kill, freeze and hang every process of a running installation, again and again, under load; report recoveries.

    TWD_HOME=... twd up -d --demo
    TWD_HOME=... python contrib/chaos/chaos.py --times 20

For each process of it, the broker, the fork servers and the stages or workers of a pool included: `kill -9`, SIGSTOP
for good (`hang`), and, where `--faults` asks for it, SIGSTOP for a while (`stop`), as often as asked.
After each fault it measures from the fault's end (for `hang`: its beginning) until the first job that was sent later
has its whole text (`jobs`), and until every process is there again with a fresh lease (`services`). At the end it looks
for processes, leases and open files that are too many. The exit code is 0 when all recoveries were within `--within`
(`--within-hang`), all whole texts were equal, no job ended in silence, and nothing was left over.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import psutil

from twd.bus.base import BusError, LeaseEntry
from twd.bus.nats.bus import NatsBus
from twd.cli.common.context import CliContext
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.process.home import RunningInstance, StateFolder
from twd.wire.service import read_lease

LOOK_S = 0.05
GIVE_UP_S = 60.0
SILENCE_S = 90.0
KINDS = {
    "fork server": "fork server",
    "run stage": "stage",
    "run drafter": "drafter",
    "rpc.worker": "rpc worker",
    "template_worker": "template worker",
}
"""Words in a process's title, and what it then is."""
WHEN_NEEDED = "template worker"
"""A process that is started again only when there is work for it."""
PROMPT = [{"role": "user", "content": "Count from one to ten, in words."}]


@dataclass
class Load:
    """Jobs sent one after another by a few clients, and how they ended."""

    api: str
    tokens: int
    ends: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    last_good_sent: float = 0.0
    """When the youngest job was sent that came back whole."""

    async def client(self, session: aiohttp.ClientSession) -> None:
        """Ask, and ask again."""
        while True:
            sent = time.monotonic()
            end = await self._ask(session)
            self.ends[end] += 1
            if end == "whole":
                self.last_good_sent = max(self.last_good_sent, sent)
            else:
                await asyncio.sleep(0.1)

    async def _ask(self, session: aiohttp.ClientSession) -> str:
        body = {"model": "default", "messages": PROMPT, "max_tokens": self.tokens, "temperature": 0}
        try:
            async with session.post(f"{self.api}/v1/chat/completions", json=body) as response:
                answer = await response.json(content_type=None)
        except TimeoutError:
            return "silence"
        except (aiohttp.ClientError, ConnectionError, json.JSONDecodeError):
            return "connection lost"  # what a client sees of a killed edge
        if response.status == 200:
            self.texts[answer["choices"][0]["message"]["content"]] += 1
            return "whole"
        return f"{response.status} {answer.get('error', {}).get('code', '')}"


def parts(instance: RunningInstance) -> dict[str, int]:
    """What the processes of an installation started themselves: fork servers, stages, workers."""
    names = {pid: name for name, pid in instance.processes.items()} | {instance.pid: "supervisor"}
    found: dict[str, int] = {}
    for child in psutil.Process(instance.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            kind = kind_of(" ".join(child.cmdline()))
            if kind and child.pid not in names:
                found[f"{kind} of {names.get(child.ppid(), 'nobody')}"] = child.pid
    return found


def kind_of(title: str) -> str:
    """What a process is, by its title."""
    return next((kind for part, kind in KINDS.items() if part in title), "")


def words_of(process: psutil.Process) -> str:
    """Its command line."""
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return f"{process.name()}, which ended and that nobody waited for"
    except psutil.NoSuchProcess:
        return "it has ended meanwhile"


@dataclass(frozen=True)
class Recovery:
    """One fault, and how long it was felt after its end."""

    fault: str
    target: str
    jobs_s: float
    services_s: float


class Chaos:
    """The faults and what they did."""

    def __init__(self, home: StateFolder, bus: NatsBus, load: Load, stop_s: float) -> None:
        self.home = home
        self.bus = bus
        self.load = load
        self.stop_s = stop_s
        self.recoveries: list[Recovery] = []

    def instance(self) -> RunningInstance:
        """The installation as it stands."""
        found = self.home.running()
        if found is None:
            raise SystemExit(f"chaos: nothing runs in {self.home.path}")
        return found

    def pid_of(self, target: str) -> int:
        """The process behind a name, now; 0: there is none."""
        instance = self.instance()
        if target == "supervisor":
            return instance.pid
        return instance.processes[target] if target in instance.processes else parts(instance).get(target, 0)

    async def strike(self, fault: str, target: str) -> None:
        """One fault, and the wait until it is over."""
        pid = self.pid_of(target)
        if not pid and target.startswith(WHEN_NEEDED):
            return
        if not pid:
            raise SystemExit(f"chaos: {target} does not run")
        os.kill(pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        if fault == "stop":
            await asyncio.sleep(self.stop_s)
            with contextlib.suppress(ProcessLookupError):  # it was taken for hung
                os.kill(pid, signal.SIGCONT)
        ended = time.monotonic()
        gone = 0 if fault == "stop" else pid
        jobs_s, services_s = await asyncio.gather(self._jobs_flow(ended), self._services_back(ended, target, gone))
        self.recoveries.append(Recovery(fault, target, jobs_s, services_s))
        print(f"{fault:5} {target:24} jobs after {jobs_s:5.2f} s, services after {services_s:5.2f} s", flush=True)

    async def _jobs_flow(self, ended: float) -> float:
        while self.load.last_good_sent < ended:
            if time.monotonic() - ended > GIVE_UP_S:
                return float("inf")
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - ended

    async def _services_back(self, ended: float, target: str, gone: int) -> float:
        while not await self._all_there(target, gone):
            if time.monotonic() - ended > GIVE_UP_S:
                return float("inf")
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - ended

    async def _all_there(self, target: str, gone: int) -> bool:
        instance = self.instance()
        now = instance.processes.get(target) or parts(instance).get(target, 0)
        if gone and (now == gone or not (now or target.startswith(WHEN_NEEDED))):
            return False
        leased = {lease.pid for entry in await self._leases() if (lease := read_lease(entry.value, entry.key))}
        return all(pid in leased for name, pid in instance.processes.items() if name not in instance.leaseless)

    async def _leases(self) -> list[LeaseEntry]:
        try:
            return await (await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
        except BusError:
            return []

    async def leftovers(self, files_before: int) -> list[str]:
        """What there is too much of after all faults."""
        await asyncio.sleep(LEASE_TTL_S + 1)
        instance = self.instance()
        expected = {instance.pid, *instance.processes.values(), *parts(instance).values()}
        children = psutil.Process(instance.pid).children(recursive=True)
        found = [f"process {child.pid}: {words_of(child)}" for child in children if child.pid not in expected]
        for entry in await self._leases():
            lease = read_lease(entry.value, entry.key)
            if lease and lease.pid not in expected:
                found.append(f"lease of {lease.instance}, pid {lease.pid}")
        files = psutil.Process(instance.pid).num_fds()
        return [*found, *([f"{files - files_before} more open files"] if files > files_before + 5 else [])]


def report(chaos: Chaos, within_s: dict[str, float]) -> bool:
    """Print the table; returns whether every recovery was quick enough."""
    print(f"\n{'fault':5} {'target':24} {'n':>3} {'jobs: median':>13} {'worst':>7} {'services: median':>17} worst")
    groups: dict[tuple[str, str], list[Recovery]] = {}
    for recovery in chaos.recoveries:
        groups.setdefault((recovery.fault, recovery.target), []).append(recovery)
    for (fault, target), members in groups.items():
        jobs, services = [m.jobs_s for m in members], [m.services_s for m in members]
        print(
            f"{fault:5} {target:24} {len(members):3} {statistics.median(jobs):11.2f} s {max(jobs):5.2f} s"
            f" {statistics.median(services):15.2f} s {max(services):5.2f} s"
        )
    print("jobs ended:", ", ".join(f"{count} x {end}" for end, count in chaos.load.ends.most_common()))
    print(f"whole texts: {sum(chaos.load.texts.values())}, {len(chaos.load.texts)} different")
    quick = all(max(m.jobs_s, m.services_s) <= within_s[m.fault] for m in chaos.recoveries)
    return quick and len(chaos.load.texts) == 1


@asynccontextmanager
async def under_load(load: Load, clients: int) -> AsyncIterator[None]:
    """Clients that ask all the time."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SILENCE_S)) as session,
        asyncio.TaskGroup() as group,
    ):
        running = [group.create_task(load.client(session)) for _ in range(clients)]
        yield
        for task in running:
            task.cancel()


async def run(options: argparse.Namespace) -> int:
    """All faults, then the report."""
    ctx = CliContext()
    instance = ctx.home.running()
    if instance is None:
        raise SystemExit(f"chaos: nothing runs in {ctx.home.path}; start it with `twd up -d --demo`")
    load = Load(instance.addresses["api"], options.tokens)
    async with ctx.bus() as bus:
        chaos = Chaos(ctx.home, bus, load, options.stop_s)
        everything = (*instance.processes, *parts(instance), "supervisor")
        targets = [name for name in everything if not options.only or any(one in name for one in options.only)]
        files = psutil.Process(instance.pid).num_fds()
        async with under_load(load, options.clients):
            # In rounds, as a process that dies again and again within half a minute is started ever later.
            for _ in range(options.times):
                for target in targets:
                    for fault in ("stop",) if target == "supervisor" else options.faults:
                        await chaos.strike(fault, target)
        quick = report(chaos, {"kill": options.within, "stop": options.within, "hang": options.within_hang})
        left = await chaos.leftovers(files)
    for line in left:
        print("left over:", line)
    return 0 if quick and not left and not load.ends["silence"] else 1


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(description="Kill and freeze what `twd up` started, under load.")
    parser.add_argument("--times", type=int, default=20, help="how often for each process and kind of fault")
    parser.add_argument("--only", nargs="*", default=[], help="only processes with these words in their names")
    parser.add_argument("--faults", nargs="*", default=["kill", "hang"], choices=["kill", "hang", "stop"])
    parser.add_argument("--clients", type=int, default=2, help="clients that ask all the time")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of each answer")
    parser.add_argument("--stop-s", type=float, default=3.0, help="how long a frozen process stays so")
    parser.add_argument("--within", type=float, default=5.0, help="seconds within which all must be back")
    parser.add_argument("--within-hang", type=float, default=15.0, help="the same for what is stopped for good")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
