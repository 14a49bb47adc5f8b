"""Seeders that are killed once all bytes are out, and peers that are stopped in the middle, many times.

    python losses.py --program ../../../.venv/bin/twd --last 100 --stop 20

The seeders are processes; the machines that pull are in this one.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from peers import MIB, SeederProcess, model, seeder

from twd.kit.tasks import TaskGroup
from twd.pieces.manifest import Manifest
from twd.swarm.door import Door
from twd.swarm.library import Library
from twd.swarm.pace import Pace
from twd.swarm.peer import Peer, Peers
from twd.swarm.seeder import Seeder
from twd.swarm.transfer import Transfer

MACHINES = 4
LIMIT_S = 60.0


@asynccontextmanager
async def machines(
    manifest: Manifest, folder: Path, urls: Sequence[str], count: int, mib_s: float
) -> AsyncIterator[list[Transfer]]:
    """So many machines that know the seeders and each other; each takes so many MiB a second."""
    async with AsyncExitStack() as stack:
        libraries, own = [Library() for _ in range(count)], []
        for library in libraries:
            one = Seeder(library)
            own.append(f"http://127.0.0.1:{await one.listen('127.0.0.1', 0, Door())}")
            stack.push_async_callback(one.close)
            stack.callback(library.close)
        made = []
        for number, library in enumerate(libraries):
            (folder / str(number)).mkdir(parents=True)
            peers = Peers()
            stack.push_async_callback(peers.close)
            transfer = Transfer(manifest, folder / str(number) / "model.gguf", library=library, pace=Pace(mib_s))
            for url in [*urls, *(url for url in own if url != own[number])]:
                transfer.pull.add(Peer(peers, url, manifest.name, manifest.total_size))
            made.append(transfer)
        yield made


async def until_all_out(made: Sequence[Transfer], units: int, work: Sequence["asyncio.Task[None]"]) -> None:
    """Until each MiB is on some machine."""
    while any(not any(index in one.file.have for one in made) for index in range(units)):
        if any(task.done() for task in work):
            return
        await asyncio.sleep(0.002)


async def last_bytes(manifest: Manifest, source: SeederProcess, data: bytes, folder: Path) -> tuple[int, int]:
    """One kill: how many MiB the machines lack then, together, and how many of them finish."""
    units = len(data) // MIB
    tasks = TaskGroup("losses", lambda name, error: print(f"{name}: {error}"))
    async with machines(manifest, folder, [source.url], MACHINES, 48.0) as made:
        work = [tasks.start(f"machine {number}", one.run()) for number, one in enumerate(made)]
        await until_all_out(made, units, work)
        source.kill()
        missing = sum(units - one.file.have.count for one in made)
        await asyncio.wait(work, timeout=LIMIT_S)
        await tasks.close()
    right = sum(one.target.exists() and one.target.read_bytes() == data for one in made)
    return missing, right


def kill_seeders(program: str, folder: Path, times: int) -> None:
    """The seeder is killed once all its bytes are among the machines."""
    path, manifest = model(folder, 32)
    data, missing, finished = path.read_bytes(), list[int](), 0
    for number in range(times):
        with seeder(program, path, 64.0) as source:
            lacked, right = asyncio.run(last_bytes(manifest, source, data, folder / f"last-{number}"))
        missing.append(lacked)
        finished += right
    told = {"seeders_killed": times, "mib_missing_then": [min(missing), max(missing)], "mib": 32 * MACHINES}
    print(json.dumps({**told, "finished": finished, "of": times * MACHINES}), flush=True)


async def stopped(manifest: Manifest, folder: Path, sources: Sequence[SeederProcess], at: int) -> float:
    """One pull; a source is stopped when so many MiB are here. A negative number: never. How long it took."""
    began = time.monotonic()
    tasks = TaskGroup("losses", lambda name, error: print(f"{name}: {error}"))
    async with machines(manifest, folder, [one.url for one in sources], 1, 32.0) as (puller,):
        work = tasks.start("pull", puller.run())
        while at >= 0 and puller.file.have.count < at and not work.done():  # noqa: ASYNC110 - nobody tells of each MiB
            await asyncio.sleep(0.002)
        if at >= 0:
            sources[-1].signal(signal.SIGSTOP)
        await asyncio.wait([work], timeout=LIMIT_S)
        took_s = time.monotonic() - began
        sources[-1].signal(signal.SIGCONT)
        await tasks.close()
    assert puller.target.exists()
    return took_s


def stop_peers(program: str, folder: Path, times: int) -> None:
    """One of two seeders is stopped at some time of a pull that either of them could feed alone."""
    path, manifest = model(folder, 96)
    with seeder(program, path) as one, seeder(program, path) as two:
        calm = [asyncio.run(stopped(manifest, folder / f"calm-{number}", (one, two), -1)) for number in range(3)]
        usual = statistics.median(calm)
        costs = []
        for number in range(times):
            at = random.randrange(97)
            took_s = asyncio.run(stopped(manifest, folder / f"stop-{number}", (one, two), at))
            costs.append((round(took_s - usual, 2), at))
    worst = max(costs)
    told = {
        "peers_stopped": times,
        "usual_s": round(usual, 2),
        "cost_median_s": statistics.median(cost for cost, _ in costs),
    }
    print(json.dumps({**told, "cost_most_s": worst[0], "stopped_at_mib_of_96": worst[1]}), flush=True)


def main() -> None:
    """Whatever is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--last", type=int, default=0, metavar="TIMES")
    parser.add_argument("--stop", type=int, default=0, metavar="TIMES")
    parser.add_argument("--folder", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        if given.last:
            kill_seeders(given.program, Path(made) / "last", given.last)
        if given.stop:
            stop_peers(given.program, Path(made) / "stop", given.stop)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that nothing is left running
    main()
