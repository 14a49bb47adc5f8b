"""What the system keeps of a file in memory: measured page by page, and given back for good."""

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
    """Bytes that a process holds, and bytes of its files in the page cache; -1 where that cannot be measured."""

    rss: int
    cached: int


def footprint(paths: Sequence[Path], pid: int | None = None) -> Footprint:
    """As it is now; without a pid, of this process."""
    return Footprint(int(psutil.Process(pid).memory_info().rss), cached_bytes(paths))


def cached_bytes(paths: Sequence[Path]) -> int:
    """How much of these files lies in memory; -1 where the system does not tell."""
    return sum(_cached(path) for path in paths) if CAN_MEASURE else -1


def _cached(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        return sum(_resident(file.fileno(), at, min(_STRETCH, size - at)) for at in range(0, size, _STRETCH))


def warm_parts(descriptor: int, size: int, part: int) -> list[int]:
    """Of an open file in parts of so many bytes (a power of two): those of which something lies in memory."""
    if not CAN_MEASURE:
        return list(range(-(-size // part)))
    pages = b"".join(_pages(descriptor, at, min(_STRETCH, size - at)) for at in range(0, size, _STRETCH))
    each = max(1, part // mmap.PAGESIZE)
    return [at // each for at in range(0, len(pages), each) if any(page & 1 for page in pages[at : at + each : 16])]


def _resident(descriptor: int, at: int, length: int) -> int:
    """Bytes of one stretch that are in memory."""
    return min(length, mmap.PAGESIZE * sum(page & 1 for page in _pages(descriptor, at, length)))


def _pages(descriptor: int, at: int, length: int) -> bytes:
    """One byte for each page of a stretch, odd where it is in memory; mapping it brings nothing in."""
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
    """Let the system forget these files; what a process has mapped stays until it lets go."""
    if not CAN_DROP:
        raise TwdError(FailureCode.UNSUPPORTED, "this system has no way to give page cache back by itself")
    for path in paths:
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def release_mapped(paths: Sequence[Path]) -> int:
    """Let go of what this process has mapped of these files: pages come back when they are read. Returns bytes."""
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
    """Read files from begin to end, as a disk likes it best, so that they lie in memory."""
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
