"""One pull over loopback beside aria2c, rsync, and cp with sha256sum; plain and encrypted.

python loopback.py --program ../../../.venv/bin/twd --mib 1024 --folder /dev/shm
"""

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from twd.pieces.making import known_manifest
from twd.process import platform
from twd.ring.trust import client_context, make_identity, server_context
from twd.swarm.door import Door
from twd.swarm.library import Library
from twd.swarm.peer import Peer, Peers
from twd.swarm.seeder import Seeder
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer


def timed(command: list[str]) -> float:
    """Wall time of a command that must work."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def told(what: str, size: int, seconds: float) -> None:
    print(json.dumps({"what": what, "s": round(seconds, 2), "MB_s": round(size / seconds / 1e6)}), flush=True)


def pull_in_process(url: str, file: Path, target: Path, context: ssl.SSLContext | None) -> float:
    """A pull in a fresh child, timed without its start; prints its memory."""
    manifest = known_manifest(file)
    assert manifest is not None

    async def go() -> float:
        peers = Peers()
        began = time.monotonic()
        transfer = Transfer(manifest, target)
        transfer.pull.add(Peer(peers, url, manifest.name, manifest.total_size, context))
        await transfer.run()
        await peers.close()
        return time.monotonic() - began

    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(go())


def encrypted(file: Path, target: Path) -> float:
    """Both ends with pinned certificates; the seeder in a child."""
    here, there = make_identity("here"), make_identity("there")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        manifest = known_manifest(file)
        assert manifest is not None

        async def seed() -> None:
            library = Library()
            library.add(Shared.whole(manifest, file))
            context = server_context(there, [here.certificate])
            port = await Seeder(library).listen("127.0.0.1", 0, Door(open=True), context)
            os.write(writing, f"{port}\n".encode())
            await asyncio.sleep(3600)

        with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
            runner.run(seed())
    try:
        port = int(os.read(reading, 16))
        return pull_in_process(f"https://127.0.0.1:{port}", file, target, client_context(here, there.certificate))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def main() -> None:
    """Each alternative once, to a fresh name."""
    folder = Path(tempfile.mkdtemp(dir=ARGS.folder))
    file, size = folder / "model.gguf", ARGS.mib << 20
    with file.open("wb") as out:
        for _ in range(ARGS.mib):
            out.write(os.urandom(1 << 20))
    subprocess.run([ARGS.program, "manifest", "create", str(file)], check=True, stdout=subprocess.DEVNULL)
    environment = {**os.environ, "TWD_SWARM_UPLOAD_MIB_S": "0"}
    seed = [ARGS.program, "swarm", "seed", str(file), "--port", "0"]
    with subprocess.Popen(seed, stdout=subprocess.PIPE, text=True, env=environment) as seeder:
        assert seeder.stdout is not None
        try:
            found = None
            while found is None:
                found = re.search(r"at http://\S+:(\d+);", seeder.stdout.readline())
            compare(folder, file, size, f"http://127.0.0.1:{found[1]}")
        finally:
            seeder.kill()
            shutil.rmtree(folder)
    print(json.dumps({"own_peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def compare(folder: Path, file: Path, size: int, url: str) -> None:
    """All of them."""

    def fresh(name: str, work: Callable[[Path], float]) -> None:
        target = folder / "copy"
        told(name, size, work(target))
        target.unlink()

    manifest = known_manifest(file)
    assert manifest is not None
    where = f"{url}/v1/swarm/{manifest.root}/file"
    fresh("twd, in process", lambda target: pull_in_process(url, file, target, None))
    pull = [ARGS.program, "swarm", "pull", str(folder / "copy"), "--manifest", f"{url}/manifest", "--peer", url]
    fresh("twd swarm pull", lambda target: timed(pull))
    fresh("twd, TLS, in process", lambda target: encrypted(file, target))
    if shutil.which("aria2c"):
        options = ["-x8", "-s8", "-k1M", f"--checksum=sha-256={manifest.sha256}", "--file-allocation=none"]
        fresh("aria2c", lambda target: timed(["aria2c", *options, "-d", str(folder), "-o", "copy", where]))
    if shutil.which("rsync"):
        fresh("rsync, local", lambda target: timed(["rsync", "--whole-file", str(file), str(target)]))
    both = f"cp '{file}' '{folder}/copy' && sha256sum '{folder}/copy'"
    fresh("cp and sha256sum", lambda target: timed(["sh", "-c", both]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", default=None)
    ARGS = parser.parse_args()
    main()
