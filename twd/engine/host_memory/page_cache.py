"""The page cache of files: measures which pages are in memory, and drops them."""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from twd.kit.progress import Share
from twd.wire.failures import FailureCode, TwdError

CAN_DROP: Final = hasattr(os, "posix_fadvise")
CAN_MEASURE: Final = sys.platform in ("linux", "darwin")
_STRETCH: Final = 1 << 30
_CHUNK: Final = 4 << 20
_MADV_DONTNEED: Final = 4
_PROT_READ: Final = 1
_MAP_SHARED: Final = 1
_FAILED: Final = ctypes.c_void_p(-1).value
_MAPS: Final = Path("/proc/self/maps")


@dataclass(frozen=True, slots=True)
class Footprint:
    """The resident bytes of a process, and the bytes of its files in the page cache (-1 if not measurable)."""

    rss: int
    cached: int


def footprint(paths: Sequence[Path], pid: int | None = None) -> Footprint:
    """The current footprint of a process; without a pid, of this one."""
    return Footprint(int(psutil.Process(pid).memory_info().rss), cached_bytes(paths))


def cached_bytes(paths: Sequence[Path]) -> int:
    """How many bytes of these files are in memory; -1 if the system does not tell."""
    return sum(_cached(path) for path in paths) if CAN_MEASURE else -1


def _cached(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        return sum(_resident(file.fileno(), at, min(_STRETCH, size - at)) for at in range(0, size, _STRETCH))


def warm_parts(descriptor: int, size: int, part: int) -> list[int]:
    """The indices of the parts of an open file that are at least partly in memory; all of them if not measurable.

    `part`: the size of a part in bytes, a power of two.
    """
    if not CAN_MEASURE:
        return list(range(-(-size // part)))
    pages = b"".join(_pages(descriptor, at, min(_STRETCH, size - at)) for at in range(0, size, _STRETCH))
    each = max(1, part // mmap.PAGESIZE)
    return [at // each for at in range(0, len(pages), each) if any(page & 1 for page in pages[at : at + each : 16])]


def _resident(descriptor: int, at: int, length: int) -> int:
    """The bytes of one range that are in memory."""
    return min(length, mmap.PAGESIZE * sum(page & 1 for page in _pages(descriptor, at, length)))


def _pages(descriptor: int, at: int, length: int) -> bytes:
    """One byte for each page of a range, odd if the page is in memory. The mapping itself loads no page."""
    libc = _libc()
    address = libc.mmap(None, length, _PROT_READ, _MAP_SHARED, descriptor, at)
    if address in (None, _FAILED):
        raise OSError(ctypes.get_errno(), "mmap failed")
    try:
        pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
        if libc.mincore(ctypes.c_void_p(address), length, pages):
            raise OSError(ctypes.get_errno(), "mincore failed")
        return bytes(pages)
    finally:
        libc.munmap(ctypes.c_void_p(address), length)


def drop(paths: Sequence[Path]) -> None:
    """Drop these files from the page cache. Pages that a process has mapped stay until it releases them."""
    if not CAN_DROP:
        raise TwdError(FailureCode.UNSUPPORTED, "this system has no way to give page cache back by itself")
    for path in paths:
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def release_mapped(paths: Sequence[Path]) -> int:
    """Release this process's mapped pages of these files; they are loaded again when read. Returns the bytes."""
    released = 0
    for start, end in _mappings({str(path.resolve()) for path in paths}):
        if _libc().madvise(ctypes.c_void_p(start), end - start, _MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        released += end - start
    return released


def _mappings(names: set[str]) -> Iterator[tuple[int, int]]:
    if not _MAPS.exists():
        return
    for line in _MAPS.read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in names:
            start, _, end = parts[0].partition("-")
            yield int(start, 16), int(end, 16)


def read_ahead(paths: Sequence[Path], progress: Share) -> None:
    """Read files from beginning to end, which is fastest for a disk, so that they are in the page cache."""
    total, done = sum(path.stat().st_size for path in paths) or 1, 0
    buffer = bytearray(_CHUNK)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            if CAN_DROP:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while count := file.readinto(buffer):
                done += count
                progress(min(1.0, done / total))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    ]  # fmt: skip
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
