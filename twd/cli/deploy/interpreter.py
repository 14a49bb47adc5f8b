"""A Python to send to a machine that has none: this machine's, or a folder with one that may lie anywhere."""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Final

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

LEFT_OUT: Final = re.compile(
    r"(^|/)(__pycache__|site-packages|dist-packages|tests?|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data)(/|$)"
    r"|(^|/)config-|\.a$|lib-dynload/(_tkinter|_test|_crypt|_curses|_dbm|_gdbm|_x|nis|ossaudiodev|readline|spwd)"
)
"""What of the standard library no service needs."""
OF_THE_SYSTEM: Final = re.compile(r"(linux-vdso|ld-linux.*|lib(c|m|dl|rt|util|pthread|resolv|anl|nsl))\.so")
"""Libraries that come with the C library itself."""
_FOUND: Final = re.compile(r"^\s*(\S+) => (/\S+)", re.MULTILINE)
LDD_S: Final = 60.0


@dataclass(frozen=True)
class SentPython:
    """A Python, packed."""

    file: Path
    name: str
    """The name of its folder there: it changes with any byte of it."""
    version: tuple[int, int]

    @property
    def size(self) -> int:
        """Its packed size."""
        return self.file.stat().st_size

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the packed bytes."""
        with self.file.open("rb") as file:
            while part := file.read(1 << 18):
                yield part


class PythonToSend:
    """Packs a Python once, when the first machine turns out to have none; threads may ask at the same time."""

    def __init__(self, folder: Path | None, cache: Path) -> None:
        self._cache = cache
        self._given = python_of(folder, cache) if folder else None
        self._lock = Lock()

    def packed(self) -> SentPython | None:
        """Return the Python that was given, else the one that runs now; None where that cannot be moved."""
        with self._lock:
            self._given = self._given or python_here(self._cache)
        return self._given


def python_of(folder: Path, cache: Path) -> SentPython:
    """Return a Python from a folder that may lie anywhere, such as one of python-build-standalone."""
    found = re.search(r"/python3\.(\d+)$", next(map(str, folder.glob("lib/python3.*")), ""))
    if found is None or not os.access(folder / "bin" / f"python3.{found[1]}", os.X_OK):
        text = f"{folder} holds no Python: bin/python3.X and lib/python3.X are wanted"
        raise CommandError(ExitCode.NOT_FOUND, text)
    program = f"bin/python3.{found[1]}"
    kept = {program: folder / program} | {f"lib/{name}": file for name, file in _kept(folder / "lib")}
    packed = {name: file.read_bytes() for name, file in kept.items()}
    return _packed(packed, (3, int(found[1])), cache)


def python_here(cache: Path) -> SentPython | None:
    """Return the Python that runs now, so that it may lie anywhere; None where it cannot be moved."""
    version = sys.version_info[:2]
    program = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    place = f"{sys.base_prefix}/lib"
    kept = dict(_kept(library))
    needed = _needed([program, *(one for one in kept.values() if ".so" in one.name)])
    launcher = moved(program.read_bytes(), place, "$ORIGIN/../lib")
    if launcher == program.read_bytes() and _needed([program]):
        return None
    folder = f"python{version[0]}.{version[1]}"
    packed = {f"bin/{folder}": launcher}
    packed |= {f"lib/{folder}/{name}": moved(one.read_bytes(), place, "$ORIGIN/../..") for name, one in kept.items()}
    packed |= {f"lib/{name}": moved(Path(one).read_bytes(), place, "$ORIGIN") for name, one in needed.items()}
    return _packed(packed, version, cache)


def moved(program: bytes, place: str, instead: str) -> bytes:
    """Return a program or library that looks for its libraries in another place; the new text must not be longer.

    The place is a text of its own in the file, which ends with a zero byte, and the rest of its room may be zeros.
    """
    old = f"\0{place}\0".encode()
    if not program.startswith(b"\x7fELF") or len(instead) > len(place):
        return program
    return program.replace(old, f"\0{instead}".encode().ljust(len(old), b"\0"))


def libraries_of(files: list[Path]) -> dict[str, Path]:
    """Return the libraries that these files need and that neither lie beside them nor come with the C library."""
    beside = {one.parent for one in files}
    found = {name: Path(place) for name, place in _needed(files).items()}
    return {name: place for name, place in found.items() if place.parent not in beside}


def _needed(files: list[Path]) -> dict[str, str]:
    """Return name -> place of all libraries that these files need, as the loader here finds them."""
    try:
        done = subprocess.run(
            ["ldd", *map(str, files)], capture_output=True, text=True, timeout=LDD_S, check=False, env={"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = dict(_FOUND.findall(done.stdout))
    return {name: place for name, place in found.items() if not OF_THE_SYSTEM.match(name)}


def _kept(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that are sent, by their places below the folder."""
    for place, folders, files in os.walk(folder):
        below = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not LEFT_OUT.search((below / name).as_posix()))
        yield from (
            (name, folder / name)
            for file in sorted(files)
            if not LEFT_OUT.search(name := (below / file).as_posix()) and (folder / name).is_file()
        )


def _packed(files: dict[str, bytes], version: tuple[int, int], cache: Path) -> SentPython:
    """Pack files; equal files make equal bytes."""
    stamp = hashlib.sha256()
    for name, data in sorted(files.items()):
        stamp.update(f"{name}:{hashlib.sha256(data).hexdigest()}\n".encode())
    name = f"python-{version[0]}.{version[1]}-{stamp.hexdigest()[:12]}"
    target = cache / f"{name}.tar.gz"
    if not target.exists():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        _write(draft, files)
        draft.replace(target)
    return SentPython(target, name, version)


def _write(target: Path, files: dict[str, bytes]) -> None:
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, 0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path, data in sorted(files.items()):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            info.mode = 0o755 if path.startswith("bin/") or ".so" in path else 0o644
            tar.addfile(info, BytesIO(data))
