"""What the scripts of this folder play with: a random model, and `twd swarm seed` as a process."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twd.pieces.making import make_manifest
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import manifest_of

MIB = 1 << 20


def model(folder: Path, mib: int) -> tuple[Path, Manifest]:
    """A file and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.gguf"
    with path.open("wb") as out:
        for _ in range(mib):
            out.write(os.urandom(MIB))
    manifest = make_manifest(path, with_inspection=False)
    write_manifest(manifest_of(path), manifest)
    return path, manifest


class SeederProcess:
    """`twd swarm seed`, which may be killed and begun again at the same address."""

    def __init__(self, program: str, path: Path, upload_mib_s: float = 0.0) -> None:
        self._command = [program, "swarm", "seed", str(path), "--port"]
        self._environment = {**os.environ, "TWD_SWARM_UPLOAD_MIB_S": str(upload_mib_s)}
        self.port = 0
        self.start()

    def start(self) -> None:
        """Begin, and wait until it listens."""
        command = [*self._command, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"at http://\S+:(\d+);", line):
                self.port = int(found[1])
                return
        raise SystemExit("the seeder did not begin")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextmanager
def seeder(program: str, path: Path, upload_mib_s: float = 0.0) -> Iterator[SeederProcess]:
    """One until the end of a block."""
    made = SeederProcess(program, path, upload_mib_s)
    try:
        yield made
    finally:
        made.kill()


def pull_command(program: str, target: Path, *urls: str) -> list[str]:
    """A pull from some seeders; the first gives the manifest."""
    peers = [part for url in urls for part in ("--peer", url)]
    return [program, "swarm", "pull", str(target), "--manifest", f"{urls[0]}/manifest", *peers, "--json"]
