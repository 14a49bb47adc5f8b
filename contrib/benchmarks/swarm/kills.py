"""kill -9 while models are on their way: of the puller, of the seeder, of the machine that reads a hub; and SIGSTOP of
that one.

python kills.py --program ../../../.venv/bin/twd --puller 100 --seeder 100 --reader 10 --stop-reader 10
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from peers import MIB, model, pull_command, seeder

from twd.bus.address import BusAddress
from twd.bus.nats.bus import NatsBus
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.net.ports import free_port
from twd.pieces.partial import look
from twd.swarm.hub.claim import reader_of

HUB = Path(__file__).parents[2] / "hubs/serve.py"
SPEC = "org/model:Q4_K_M"
FILE = "m-Q4_K_M.gguf"


def units(target: Path) -> int:
    """How many MiB of a file on its way are here."""
    found = look(target)
    return found.have if found is not None else 0


def more_than(target: Path, count: int) -> bool:
    """Whether more than so many MiB are here."""
    return units(target) > count


def limited(mib_s: float) -> dict[str, str]:
    """The variables of a pull that takes so many MiB a second."""
    return {**os.environ, "TWD_SWARM_DOWNLOAD_MIB_S": str(mib_s)}


def last_line(told: str) -> dict[str, int]:
    """The last of some lines of JSON."""
    last: dict[str, int] = json.loads(told.splitlines()[-1])
    return last


def puller_kills(program: str, folder: Path, times: int) -> dict[str, object]:
    """One pull, killed again and again; what came is counted against what was kept."""
    path, manifest = model(folder, 512)
    target, lost, kept, done = folder / "copy", 0, 0, 0
    with seeder(program, path) as source:
        pull = pull_command(program, target, source.url)
        for _ in range(times):
            before = kept
            with subprocess.Popen(pull, stdout=subprocess.DEVNULL, env=limited(64)) as process:
                while process.poll() is None and (look(target) or (0,))[0] <= before:
                    time.sleep(0.01)
                time.sleep(random.uniform(0.0, 0.3))
                process.kill()
            found = look(target)
            if found is None:
                target.unlink(missing_ok=True)
                kept, done = 0, done + 1
                continue
            kept = found.have
            lost += max(0, before - kept)
        ended = subprocess.run(pull, capture_output=True, text=True, check=True)
    again = last_line(ended.stdout)["fetched_bytes"] // MIB - (manifest.total_size // MIB - kept)
    right = target.read_bytes() == path.read_bytes()
    told = {"puller_killed": times, "files_done": done, "mib_lost": lost, "equal": right}
    return {**told, "mib_again_at_the_end": again}


def seeder_kills(program: str, folder: Path, times: int) -> dict[str, object]:
    """One pull from one seeder that is killed and begun again."""
    size = 512
    path, _ = model(folder, size)
    target, killed, left = folder / "copy", 0, list(range(times))
    with seeder(program, path) as source:
        pull = pull_command(program, target, source.url)
        began = time.monotonic()
        with subprocess.Popen(pull, stdout=subprocess.PIPE, text=True, env=limited(16)) as process:
            while process.poll() is None and left:
                wanted = left.pop(0) * size // (times + 1)
                if not wait(partial(more_than, target, wanted), process):
                    break
                source.kill()
                killed += 1
                source.start()
            told = last_line(process.communicate(timeout=600)[0])
    again = (told["fetched_bytes"] - path.stat().st_size) / MIB
    right = target.read_bytes() == path.read_bytes()
    more = {"equal": right, "mib_again": round(again, 1), "s": round(time.monotonic() - began, 1)}
    return {"seeder_killed": killed, **more}


def wait(done: Callable[[], bool], process: "subprocess.Popen[str]", limit_s: float = 120.0) -> bool:
    """Until it is so; False if the process ended before."""
    end = time.monotonic() + limit_s
    while not done():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# -- a hub and three machines ----------------------------------------------------------------------------


class Machines:
    """A broker and three swarm services, each with a home of its own."""

    def __init__(self, program: str, folder: Path, url: str) -> None:
        self._program, self._folder = program, folder
        self._common = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TWD_", "HF_"))},
            "HF_ENDPOINT": url,
            "TWD_SWARM_PORT": "0",
            "TWD_SWARM_ACCEPT": "true",
        }
        ports = {f"TWD_{name}_PORT": str(free_port()) for name in ("BUS", "EDGE", "AGENT")}
        own = {"HOME": str(folder), "TWD_HOME": str(folder / "broker"), "TWD_NODE": "desk"}
        self.broker = {**self._common, **ports, **own}
        subprocess.run([program, "up", "-d", "--no-models"], env=self.broker, check=True, capture_output=True)
        told = json.loads((folder / "broker/run/instance.json").read_text())
        self.bus, self.token = told["bus_url"], told["bus_token"]
        self.processes = {name: self.start(name) for name in ("one", "two", "three")}

    def wait(self) -> None:
        """Until all are there and have met."""
        for _ in range(60):
            told = subprocess.run([self._program, "status", "--json"], env=self.broker, capture_output=True, text=True)
            services = json.loads(told.stdout)["services"] if told.returncode == 0 else []
            if sum(one["service"] == "swarm" for one in services) > len(self.processes):
                break
            time.sleep(0.5)
        time.sleep(3.0)

    def home(self, name: str) -> Path:
        """The home of one machine."""
        return self._folder / name

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """Begin a service, or begin it again."""
        own = {"HOME": str(self.home(name)), "TWD_HOME": str(self.home(name) / "twd"), "TWD_NODE": name}
        self.home(name).mkdir(exist_ok=True)
        bus = {"TWD_BUS_URL": self.bus, "TWD_BUS_TOKEN": self.token}
        command = [self._program, "run", "swarm"]
        return subprocess.Popen(command, env={**self._common, **own, **bus}, stderr=subprocess.DEVNULL)

    def pull(self, name: str) -> "subprocess.Popen[bytes]":
        """Ask one machine for the model."""
        command = [self._program, "pull", SPEC, "--node", name]
        return subprocess.Popen(command, env=self.broker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def copies(self) -> list[Path]:
        """The file on each machine, as far as it is there."""
        return [self.home(name) / "twd/models" / FILE for name in self.processes]

    def done(self) -> bool:
        """Whether one of them has the whole file."""
        return any(copy.exists() for copy in self.copies())

    def reader(self) -> str:
        """Which machine holds the claim to read the hub."""
        return asyncio.run(self._reader())

    async def _reader(self) -> str:
        bus = await NatsBus.connect(BusAddress(url=self.bus, token=self.token), name="kills.desk")
        try:
            entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
        finally:
            await bus.close()
        held = [found.instance.split(".")[1] for entry in entries if (found := reader_of(entry)) is not None]
        return held[0] if held and held[0] in self.processes else ""

    def close(self) -> None:
        """End all."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        subprocess.run([self._program, "down"], env=self.broker, check=False, capture_output=True)


@contextmanager
def hub(mib: int, mb_s: float) -> Iterator[tuple[str, Callable[[], int]]]:
    """A hub; its address, and what its files' server has sent so far."""
    command = [sys.executable, str(HUB), "--mib", str(mib), "--mb-s", str(mb_s), "--count"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()

        def sent() -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        try:
            yield url, sent
        finally:
            process.kill()


def reader_kills(program: str, folder: Path, times: int) -> dict[str, object]:
    """Three machines want one file of a hub; whoever reads it there is killed, and begun again."""
    folder.mkdir()
    size = max(64, 8 * times)
    with hub(size, 1.0) as (url, sent):
        machines = Machines(program, folder, url)
        try:
            machines.wait()
            asked = [machines.pull(name) for name in machines.processes]
            killed, began = 0, time.monotonic()
            while killed < times and not any(copy.exists() for copy in machines.copies()):
                before = max(units(copy) for copy in machines.copies())
                while max(units(copy) for copy in machines.copies()) < before + 4:
                    time.sleep(0.05)
                name = machines.reader()
                if name:
                    machines.processes[name].kill()
                    machines.processes[name].wait()
                    killed += 1
                    machines.processes[name] = machines.start(name)
            while not all(copy.exists() for copy in machines.copies()) and time.monotonic() - began < 280:
                time.sleep(0.1)
            files = [copy.read_bytes() if copy.exists() else b"" for copy in machines.copies()]
            again = (sent() - len(files[0])) / MIB
            for one in asked:
                one.kill()
        finally:
            machines.close()
    told = {"reader_killed": killed, "machines_done": sum(bool(file) for file in files), "equal": len(set(files)) == 1}
    return {**told, "hub_sent_mib_again": round(again, 1), "s": round(time.monotonic() - began, 1)}


def reader_stops(program: str, folder: Path, times: int) -> dict[str, object]:
    """The same, and whoever reads is stopped; how long until the others have more than it had, and it may go on."""
    folder.mkdir()
    waits: list[float] = []
    with hub(32 * (times + 1), 4.0) as (url, _):
        machines = Machines(program, folder, url)
        try:
            machines.wait()
            asked = [machines.pull(name) for name in machines.processes]
            while len(waits) < times and not machines.done():
                most = max(units(copy) for copy in machines.copies())
                while max(units(copy) for copy in machines.copies()) < most + 8 and not machines.done():
                    time.sleep(0.02)
                name = machines.reader()
                if name and not machines.done():
                    waits.append(stop_for_a_while(machines, name))
            for one in asked:
                one.kill()
        finally:
            machines.close()
    return {"reader_stopped": len(waits), "goes_on_after_s": [round(one, 2) for one in sorted(waits)]}


def stop_for_a_while(machines: Machines, name: str) -> float:
    """Stop a machine until another has more MiB than it has; how long that took."""
    process = machines.processes[name]
    process.send_signal(signal.SIGSTOP)
    began, had = time.monotonic(), units(machines.home(name) / "twd/models" / FILE)
    others = [machines.home(other) / "twd/models" / FILE for other in machines.processes if other != name]
    while not any(copy.exists() or units(copy) > had for copy in others) and time.monotonic() - began < 60:
        time.sleep(0.02)
    process.send_signal(signal.SIGCONT)
    return time.monotonic() - began


def main() -> None:
    """Whatever is asked for."""
    with tempfile.TemporaryDirectory(dir=ARGS.folder) as made:
        folder = Path(made)
        if ARGS.puller:
            print(json.dumps(puller_kills(ARGS.program, folder / "puller", ARGS.puller)), flush=True)
        if ARGS.seeder:
            print(json.dumps(seeder_kills(ARGS.program, folder / "seeder", ARGS.seeder)), flush=True)
        if ARGS.reader:
            print(json.dumps(reader_kills(ARGS.program, folder / "reader", ARGS.reader)), flush=True)
        if ARGS.stop_reader:
            print(json.dumps(reader_stops(ARGS.program, folder / "stopped", ARGS.stop_reader)), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that nothing is left running
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--puller", type=int, default=0, metavar="TIMES")
    parser.add_argument("--seeder", type=int, default=0, metavar="TIMES")
    parser.add_argument("--reader", type=int, default=0, metavar="TIMES")
    parser.add_argument("--stop-reader", type=int, default=0, metavar="TIMES")
    parser.add_argument("--folder", default=None)
    ARGS = parser.parse_args()
    main()
