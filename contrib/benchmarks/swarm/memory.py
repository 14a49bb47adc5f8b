"""The memory of a pull of 20 GiB from 8 peers. The file is sparse: its hashes are known without reading it.

Only so many GiB are fetched in the end: what a pull keeps depends on the size of the file, and on what is on its way.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import MIB

from twd.kit.tasks import TaskGroup
from twd.pieces.manifest import Manifest, load_manifest, write_manifest
from twd.pieces.names import manifest_of
from twd.pieces.tree import root_of, unit_hash
from twd.swarm.door import Door
from twd.swarm.library import Library
from twd.swarm.peer import Peer, Peers
from twd.swarm.seeder import Seeder
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer

GIB = 1 << 30
PEERS = 8


def sparse_model(folder: Path, gib: int) -> Path:
    """A file of zeros that takes no room, and its manifest."""
    path, size = folder / "model.gguf", gib * GIB
    with path.open("wb") as file:
        file.truncate(size)
    layer = [unit_hash(bytes(MIB), size)] * (size // MIB)
    told = Manifest(
        filename=path.name,
        total_size=size,
        piece_size=64 * MIB,
        root=root_of(layer).hex(),
        layer=b"".join(layer).hex(),
    )
    write_manifest(manifest_of(path), told)
    return path


async def seed(path: Path) -> None:
    """Eight seeders, each with a port of its own; prints the ports."""
    library, ports = Library(), []
    library.add(Shared.whole(load_manifest(manifest_of(path)), path))
    seeders = [Seeder(library) for _ in range(PEERS)]
    for one in seeders:
        ports.append(await one.listen("127.0.0.1", 0, Door()))
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


async def pull(path: Path, target: Path, ports: list[int], gib: float) -> None:
    """Pull until so much came; prints the most memory that this process took."""
    manifest, peers = load_manifest(manifest_of(path)), Peers()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    transfer = Transfer(manifest, target, parallel=PEERS, ranges=[(0, manifest.total_size)])
    for port in ports:
        transfer.pull.add(Peer(peers, f"http://127.0.0.1:{port}", manifest.name, manifest.total_size))
    tasks = TaskGroup("memory", lambda name, error: print(error, file=sys.stderr))
    work = tasks.start("pull", transfer.run())
    while transfer.counts.fetched_bytes < gib * GIB and not work.done():  # noqa: ASYNC110 - nobody tells of each MiB
        await asyncio.sleep(0.1)
    seconds = time.monotonic() - began
    await tasks.close(20.0)
    await peers.close()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {"begin_mib": before // 1024, "most_mib": most // 1024, "mb_s": round(gib * GIB / seconds / 1e6)}
    print(json.dumps(told), flush=True)


def measure(folder: Path, size_gib: int, fetched_gib: float) -> None:
    """Both, in processes of their own."""
    path = sparse_model(folder, size_gib)
    script = [sys.executable, __file__]
    with subprocess.Popen([*script, "--seed", str(path)], stdout=subprocess.PIPE, text=True) as seeder:
        try:
            assert seeder.stdout is not None
            ports = seeder.stdout.readline().strip()
            pulling = [*script, "--pull", str(path), str(folder / "copy.gguf"), ports, str(fetched_gib)]
            told = json.loads(subprocess.run(pulling, check=True, capture_output=True, text=True).stdout)
        finally:
            seeder.kill()
    print(json.dumps({"size_gib": size_gib, "peers": PEERS, "fetched_gib": fetched_gib, **told}), flush=True)


def main() -> None:
    """The measurement, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=20)
    parser.add_argument("--fetched-gib", type=float, default=2.0)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--seed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pull", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.seed:
        asyncio.run(seed(given.seed))
    elif given.pull:
        path, target, ports, gib = given.pull
        asyncio.run(pull(Path(path), Path(target), json.loads(ports), float(gib)))
    else:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            measure(Path(name), given.gib, given.fetched_gib)


main()
