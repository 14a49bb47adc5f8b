"""Puts memory of this process in place of a mapped model file: dense weights are read into it, experts come later."""

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.engine.experts.layout import ExpertLayout, Stretch
from twd.kit.progress import Share
from twd.wire.failures import FailureCode, TwdError

_MAPS: Final = Path("/proc/self/maps")
_CHUNK: Final = 8 << 20
_FIXED: Final = 0x10
_NO_RESERVE: Final = 0x4000
_HUGE_PAGES: Final = 14
_SMALL_PAGES: Final = 15
_FAILED: Final = ctypes.c_void_p(-1).value


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a file that is mapped: bytes `offset` and following of file `shard` lie from `start` to `end`."""

    shard: int
    start: int
    end: int
    offset: int

    def address(self, offset: int) -> int:
        """Where a byte of the file lies in memory."""
        return self.start + offset - self.offset

    def holds(self, offset: int) -> bool:
        """Whether a byte of the file lies in this fragment."""
        return self.offset <= offset < self.offset + self.end - self.start


def mapped_fragments(shards: Sequence[Path]) -> list[Fragment]:
    """The parts of these files that this process has mapped now."""
    names = {str(path.resolve()): number for number, path in enumerate(shards)}
    return list(parse_maps(_MAPS.read_text(), names)) if _MAPS.exists() else []


def parse_maps(text: str, names: dict[str, int]) -> Iterator[Fragment]:
    """The same for the text of /proc/self/maps and numbers of files by name. Pure."""
    for line in text.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in names:
            start, _, end = parts[0].partition("-")
            yield Fragment(names[parts[5]], int(start, 16), int(end, 16), int(parts[2], 16))


def open_files(shards: Sequence[Path]) -> list[int]:
    """The files, opened so that what is read stays out of the page cache, if the file system can do that."""
    opened: list[int] = []
    try:
        for path in shards:
            opened.append(_open(path))
    except OSError as error:
        close_files(opened)
        raise TwdError(FailureCode.MODEL_LOAD, f"{shards[len(opened)]} cannot be opened: {error.strerror}") from None
    return opened


def _open(path: Path) -> int:
    direct = getattr(os, "O_DIRECT", 0)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | direct)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def close_files(files: Sequence[int]) -> None:
    """Close them all."""
    for file in files:
        os.close(file)


def _use_small_pages(layout: ExpertLayout, fragments: Sequence[Fragment]) -> None:
    """Let experts have small pages, which can go one by one."""
    for matrix in layout.matrices:
        for fragment in fragments:
            if fragment.shard == matrix.shard and fragment.holds(matrix.offset):
                _advise(fragment.address(matrix.offset), fragment.address(matrix.end), _SMALL_PAGES)


def overlay(
    layout: ExpertLayout, fragments: Sequence[Fragment], files: Sequence[int], progress: Share, *, all_fits: bool
) -> None:
    """Replace mapped fragments by memory of this process, and read all that is no expert into it.

    `all_fits`: there is room for all experts. Otherwise they come and go in small pages.
    """
    for fragment in fragments:
        _replace(fragment)
        _advise(fragment.start, fragment.end, _HUGE_PAGES)
    if not all_fits:
        _use_small_pages(layout, fragments)
    done, total = 0, max(layout.dense_bytes, 1)
    for stretch in layout.dense:
        for part in _within(stretch, fragments):
            _read(part, files, layout.shards)
        done += stretch.size
        progress(min(1.0, done / total))


def _within(stretch: Stretch, fragments: Sequence[Fragment]) -> Iterator[tuple[Fragment, int, int]]:
    """The pages of a stretch, cut at the borders of fragments: llama.cpp has unmapped what it does not use."""
    page = mmap.PAGESIZE
    first, last = stretch.start // page * page, -(-stretch.end // page) * page
    for fragment in fragments:
        start = max(first, fragment.offset)
        end = min(last, fragment.offset + fragment.end - fragment.start)
        if fragment.shard == stretch.shard and start < end:
            yield fragment, start, end


def _read(part: tuple[Fragment, int, int], files: Sequence[int], shards: Sequence[Path]) -> None:
    fragment, at, end = part
    while at < end:
        size = min(_CHUNK, end - at)
        into = (ctypes.c_ubyte * size).from_address(fragment.address(at))
        try:
            got = os.preadv(files[fragment.shard], [memoryview(into)], at)
        except OSError as error:
            raise TwdError(FailureCode.MODEL_LOAD, f"{shards[fragment.shard]}: {error.strerror} at byte {at}") from None
        at += got
        if got < size:  # the last page goes beyond the end of the file
            if end - at >= mmap.PAGESIZE:
                raise TwdError(FailureCode.MODEL_LOAD, f"{shards[fragment.shard]} was cut short while it was read")
            return


def _replace(fragment: Fragment) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    take = libc.mmap
    take.restype = ctypes.c_void_p
    take.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    size, flags = fragment.end - fragment.start, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED | _NO_RESERVE
    if take(fragment.start, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) in (None, _FAILED):
        reason = os.strerror(ctypes.get_errno())
        raise TwdError(FailureCode.OUT_OF_MEMORY, f"no address space of {size} bytes for the experts: {reason}")


def _advise(start: int, end: int, advice: int) -> None:
    """What the system does not know, it ignores."""
    page = mmap.PAGESIZE
    first, last = start // page * page, -(-end // page) * page
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
