"""What goes wrong, on purpose: flipped bytes from liars, kill -9 again and again, a peer that is stopped.

python faults.py --program ../../../.venv/bin/twd [--kills 100] [--flips 10000]
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from twd.pieces.making import make_manifest
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import manifest_of
from twd.pieces.partial import look
from twd.pieces.source import News
from twd.swarm.puller import Hooks
from twd.swarm.transfer import Transfer

MIB = 1 << 20


def model(folder: Path, mib: int) -> tuple[Path, Manifest]:
    """A file and its manifest."""
    path = folder / "model.gguf"
    with path.open("wb") as out:
        for _ in range(mib):
            out.write(os.urandom(MIB))
    manifest = make_manifest(path, with_inspection=False)
    write_manifest(manifest_of(path), manifest)
    return path, manifest


class Memory:
    """A source in memory; `wrong` units have one byte flipped."""

    defines, most, least = False, 4, 1

    def __init__(self, name: str, data: bytes, wrong: frozenset[int] = frozenset()) -> None:
        self.name, self._data, self._wrong = name, data, wrong
        self.flipped = 0

    async def news(self) -> AsyncIterator[News]:
        """It has all."""
        yield News(have=list(range(len(self._data) // MIB)))

    async def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """Its bytes."""
        for at in range(begin, begin + length, MIB):
            part = bytearray(self._data[at : at + MIB])
            if at // MIB in self._wrong:
                self.flipped += 1
                part[random.randrange(len(part))] ^= 1 << random.randrange(8)
            await asyncio.sleep(0)
            yield bytes(part)

    async def close(self) -> None:
        """Nothing to close."""


async def flips(folder: Path, wanted: int) -> dict[str, object]:
    """Pulls from liars among honest sources, until so many bytes were flipped."""
    path, manifest = model(folder, 64)
    data, flipped, banned_honest, refetched, pulls = path.read_bytes(), 0, 0, 0, 0
    while flipped < wanted:
        liars = [Memory(f"liar {number}", data, frozenset(range(64))) for number in range(40)]
        honest = [Memory(f"honest {number}", data) for number in range(3)]
        banned: list[str] = []
        target = folder / "copy"
        hooks = Hooks(banned=lambda name, reason, unit, told=banned: told.append(name))  # type: ignore[misc]
        transfer = Transfer(manifest, target, hooks=hooks)
        for source in [*liars, *honest]:
            transfer.pull.add(source)
        await transfer.run()
        assert target.read_bytes() == data
        target.unlink()
        flipped += sum(liar.flipped for liar in liars)
        banned_honest += sum(name.startswith("honest") for name in banned)
        refetched += transfer.pull.counts.wasted_bytes
        pulls += 1
    per = round(refetched / MIB / flipped, 2)
    return {
        "flipped_bytes": flipped,
        "pulls": pulls,
        "wrong_in_result": 0,
        "honest_banned": banned_honest,
        "mib_again_for_each": per,
    }


@contextmanager
def seeder(program: str, path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`twd swarm seed` and its address."""
    environment = {**os.environ, "TWD_SWARM_UPLOAD_MIB_S": "0"}
    command = [program, "swarm", "seed", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = None
        while found is None:
            found = re.search(r"at http://\S+:(\d+);", process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{found[1]}", process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def kills(program: str, folder: Path, times: int) -> dict[str, object]:
    """One pull, killed again and again; what came is counted against what was kept."""
    path, manifest = model(folder, 512)
    target, lost, kept, done = folder / "copy", 0, 0, 0
    limit = {**os.environ, "TWD_SWARM_DOWNLOAD_MIB_S": "64"}
    with seeder(program, path) as (url, _):
        pull = [program, "swarm", "pull", str(target), "--manifest", f"{url}/manifest", "--peer", url, "--json"]
        for _ in range(times):
            before = kept
            with subprocess.Popen(pull, stdout=subprocess.DEVNULL, env=limit) as process:
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
    told = json.loads(ended.stdout.splitlines()[-1])
    right = target.read_bytes() == path.read_bytes()
    again = told["fetched_bytes"] // MIB - (manifest.total_size // MIB - kept)
    return {"kills": times, "files_done": done, "mib_lost": lost, "equal": right, "mib_again_at_the_end": again}


def stopped_peer(program: str, folder: Path) -> dict[str, object]:
    """A pull from two seeders, and the same where one is stopped on the way."""
    path, _ = model(folder, 256)
    told: dict[str, object] = {}
    for stop in (False, True):
        with seeder(program, path) as (one, _), seeder(program, path) as (two, process):
            target = folder / f"copy-{stop}"
            pull = [
                program,
                "swarm",
                "pull",
                str(target),
                "--manifest",
                f"{one}/manifest",
                "--peer",
                one,
                "--peer",
                two,
            ]
            limit = {**os.environ, "TWD_SWARM_DOWNLOAD_MIB_S": "64"}
            began = time.monotonic()
            with subprocess.Popen([*pull, "--json"], stdout=subprocess.DEVNULL, env=limit) as running:
                if stop:
                    time.sleep(2)
                    process.send_signal(signal.SIGSTOP)
                running.wait(120)
            told["one_stopped_s" if stop else "both_s"] = round(time.monotonic() - began, 2)
            assert target.read_bytes() == path.read_bytes()
    return told


def main() -> None:
    """All three."""
    with tempfile.TemporaryDirectory(dir=ARGS.folder) as made:
        folder = Path(made)
        for name in ("a", "b", "c"):
            (folder / name).mkdir()
        if ARGS.flips:
            print(json.dumps(asyncio.run(flips(folder / "a", ARGS.flips))), flush=True)
        if ARGS.kills:
            print(json.dumps(kills(ARGS.program, folder / "b", ARGS.kills)), flush=True)
        if ARGS.stop:
            print(json.dumps(stopped_peer(ARGS.program, folder / "c")), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--flips", type=int, default=0)
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--folder", default=None)
    ARGS = parser.parse_args()
    main()
