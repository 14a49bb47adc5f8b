"""Runs on the other machine, by its own Python: installs the wheels of a tar stream beside what is there.

It uses the standard library alone. Arguments: the folder of all versions, and the name of the new one. A version is a
folder of its own with an environment of its own; it appears whole or not at all.
"""

import base64
import csv
import glob
import hashlib
import importlib.util
import io
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

COMPLETE = "twd-complete"
"""A file in each version folder that is whole."""
LIBRARIES = "libraries/"
"""The folder of the stream with libraries of the system that the engine needs; they come after the wheels."""
BYTECODE = "bytecode.zip"
"""What was compiled elsewhere of the wheels' sources; it comes after the wheels, too."""
UNCHECKED = b"\x01\x00\x00\x00"
SYSTEM_LIBRARIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*")
START = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/python3" -P -m twd "$@"
"""


def main(base: str, name: str) -> None:
    """Install standard input as the version `name` below `base`."""
    versions = Path(base) / "versions"
    versions.mkdir(parents=True, exist_ok=True, mode=0o755)
    for stale in versions.glob(".new-*"):
        if not alive(int(stale.name.partition("-")[2])):
            shutil.rmtree(stale, ignore_errors=True)
    fresh = versions / f".new-{os.getpid()}"
    try:
        fill(fresh)
        (fresh / COMPLETE).write_text(f"{name}\n")
        if (versions / name).exists():  # somebody else was faster
            return
        fresh.rename(versions / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process of this number runs; one that ended and is not reaped yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return True


def fill(folder: Path) -> None:
    """Make the environment, and put all wheels into it."""
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    python = os.path.realpath(sys.executable)
    (folder / "bin" / "python3").symlink_to(python)
    (folder / "bin" / "python").symlink_to("python3")
    (folder / "pyvenv.cfg").write_text(f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\n")
    seen = 0
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for member in tar:
            data = tar.extractfile(member)
            if data is not None and member.name.startswith(LIBRARIES):
                lend(member.name.removeprefix(LIBRARIES), data.read(), site)
                continue
            if data is not None and member.name == BYTECODE:
                keep_compiled(io.BytesIO(data.read()), site)
                continue
            if data is None or not member.name.endswith(".whl"):
                raise SystemExit(f"{member.name} is no wheel")
            install(io.BytesIO(data.read()), member.name, site, folder / "bin")
            seen += 1
    if not seen:
        raise SystemExit("no wheel arrived")
    start = folder / "bin" / "twd"
    start.write_text(START)
    start.chmod(0o755)


def lend(name: str, data: bytes, site: Path) -> None:
    """Put a library beside the engine, which looks there first, unless this machine has it."""
    engine = site / "llama_cpp" / "lib"
    there = any(glob.glob(f"{place}/{name}") for place in SYSTEM_LIBRARIES)
    if "/" not in name and engine.is_dir() and not there:
        (engine / name).write_bytes(data)


def keep_compiled(packed: io.BytesIO, site: Path) -> None:
    """Keep what was compiled of sources that lie here. Python believes it unseen, so the rest is left out."""
    with zipfile.ZipFile(packed) as archive:
        for name in archive.namelist():
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise SystemExit(f"{name} leads out of its folder")
            data, source = archive.read(name), site / importlib.util.source_from_cache(name)
            if source.is_file() and data[:16] == header_of(source):
                write(Path(importlib.util.cache_from_source(str(source))), data)


def header_of(source: Path) -> bytes:
    """How a file begins that this Python compiled of a source, and that is bound to the source's hash."""
    return importlib.util.MAGIC_NUMBER + UNCHECKED + importlib.util.source_hash(source.read_bytes())


def install(wheel: io.BytesIO, name: str, site: Path, scripts: Path) -> None:
    """Unpack one wheel."""
    for path, data in contents(wheel, name):
        put(path, data, site, scripts)


def contents(wheel: "io.BytesIO | Path", name: str) -> "Iterator[tuple[str, bytes]]":
    """Yield the files of a wheel; each must have the hash that the wheel's list names."""
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [one for one in archive.namelist() if one.endswith(".dist-info/RECORD")]
        hashes = {row[0]: row[1] for row in csv.reader(io.StringIO(archive.read(record).decode())) if row}
        for info in archive.infolist():
            if info.is_dir():
                continue
            data = archive.read(info)
            if info.filename != record and hashes.get(info.filename) != digest(data):
                raise SystemExit(f"{name}: {info.filename} has another hash than the wheel says")
            yield info.filename, data


def digest(data: bytes) -> str:
    """The hash of a file, as lists of wheels write it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def put(path: str, data: bytes, site: Path, scripts: Path) -> None:
    """Write one file of a wheel where it belongs."""
    parts = PurePosixPath(path).parts
    folder = site
    if parts[0].endswith(".data") and len(parts) > 2:
        if parts[1] not in ("purelib", "platlib", "scripts"):
            return
        folder, parts = (scripts if parts[1] == "scripts" else site), parts[2:]
    if ".." in parts or path.startswith("/"):
        raise SystemExit(f"{path} leads out of its folder")
    target = folder.joinpath(*parts)
    write(target, data)
    if folder == scripts or ".so" in target.name:
        target.chmod(0o755)


def write(target: Path, data: bytes) -> None:
    """Write a file, with its folder where that is missing."""
    try:
        target.write_bytes(data)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise SystemExit(f"the installation failed: {error}") from None
