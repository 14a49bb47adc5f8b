"""Shows that our trees and torrents are BitTorrent v2's: `libtorrent` finds the same roots, and fetches from a seeder.

The first run installs libtorrent into an environment of its own; `--python` names one that has it.
"""

import argparse
import json
import os
import subprocess
import tempfile
import venv
from pathlib import Path

from peers import MIB, seeder

from twd.pieces.making import make_manifest
from twd.pieces.manifest import write_manifest
from twd.pieces.names import manifest_of
from twd.pieces.torrent import torrent_of
from twd.pieces.tree import BLOCK

PLACE = Path(os.environ.get("TWD_TORRENTS_CACHE", Path.home() / ".cache/twd/torrents"))
CLIENT = Path(__file__).with_name("torrent_client.py")
AROUND = (
    BLOCK,
    2 * BLOCK,
    3 * BLOCK,
    5 * BLOCK,
    32 * BLOCK,
    63 * BLOCK,
    MIB,
    2 * MIB,
    3 * MIB,
    4 * MIB,
    5 * MIB,
    7 * MIB,
)
SIZES = sorted(
    {
        1,
        2,
        1000,
        99_991,
        8 * MIB + 7,
        *(size + more for size in AROUND for more in (-BLOCK + 1, -1, 0, 1)),
        6 * MIB + 12_345,
    }
)
"""Sizes around whole blocks, whole units, and whole layers of the tree."""


def environment() -> Path:
    """The Python with libtorrent."""
    python = PLACE / "bin/python"
    if not python.exists():
        venv.create(PLACE, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "libtorrent"], check=True)
    return python


def asked(python: Path, *arguments: object) -> dict[str, object]:
    """What the client says."""
    command = [str(python), str(CLIENT), *map(str, arguments)]
    told: dict[str, object] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told


def same_roots(python: Path, folder: Path) -> int:
    """How many files have the same root there and here; all must."""
    files = [folder / f"{size}.gguf" for size in SIZES]
    for size, path in zip(SIZES, files, strict=True):
        path.write_bytes(os.urandom(size))
    theirs = asked(python, "roots", *files)
    wrong = [path.name for path in files if theirs[str(path)] != make_manifest(path, MIB, with_inspection=False).root]
    assert not wrong, wrong
    return len(files)


def fetched(python: Path, program: str, folder: Path) -> str:
    """A torrent's file from our seeder alone; the version of libtorrent."""
    path, there = folder / "model.gguf", folder / "there"
    path.write_bytes(os.urandom(9 * MIB + 54_321))
    there.mkdir()
    manifest = make_manifest(path, MIB, with_inspection=False)
    write_manifest(manifest_of(path), manifest)
    with seeder(program, path) as source:
        torrent = folder / "model.torrent"
        torrent.write_bytes(torrent_of(manifest, [f"{source.url}/v1/swarm/{manifest.root}/file/"]))
        told = asked(python, "fetch", torrent, there)
    assert told["fetched"]
    assert (there / path.name).read_bytes() == path.read_bytes()
    return str(told["version"])


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="twd")
    parser.add_argument("--python", type=Path, help="an interpreter with libtorrent")
    given = parser.parse_args()
    python = given.python or environment()
    with tempfile.TemporaryDirectory() as name:
        count = same_roots(python, Path(name))
        version = fetched(python, given.program, Path(name))
    print(f"libtorrent {version} finds the same root for {count} awkward sizes, and fetches from our seeder alone")


main()
