"""A partial file: its bytes so far, and a bitmap of the units that are there and were checked."""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twd.pieces.bitmap import Bitmap
from twd.pieces.checks import Bytes, Checks
from twd.pieces.names import bitmap_of, part_of
from twd.pieces.tree import HASH_BYTES
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import read_as

_HEAD_BYTES: Final = 512
ROOM_LEFT: Final = 64 * 1024 * 1024
"""This many bytes of the disk stay free."""


class _Head(msgspec.Struct, frozen=True):
    """The header of a bitmap file. `mtime_ns`: the mtime of the bytes at a normal close, else 0."""

    name: str
    size: int
    unit: int
    mtime_ns: int = 0
    some: bool = False
    """Only some ranges were wanted: the rest is not pulled without a request."""


class Found(NamedTuple):
    """What is here of a file: number of units here, number of all units, root, and whether only some are wanted."""

    have: int
    units: int
    name: str
    some: bool


class PartialFile:
    """The bytes in `FILE.twd.part`, the bitmap in `FILE.twd.pieces`. Methods may be called from several threads.

    If no manifest told the hashes, those of the units that came are kept behind the bitmap, for a pull that was killed.
    """

    def __init__(self, target: Path, name: str, checks: Checks, *, some: bool = False) -> None:
        """Continue a partial file or begin one; raises TwdError or OSError, and changes nothing then."""
        self.target, self.name, self.checks, self._some = target, name, checks, some
        self.path, self._bitmap_path = part_of(target), bitmap_of(target)
        self.have = Bitmap(len(checks))
        self._learns = None in checks.digests
        self._hashes_at = _HEAD_BYTES + len(self.have.data)
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._bits = os.open(self._bitmap_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.descriptor = -1
        try:
            self._begin()
        except BaseException:
            self._let_go()
            raise

    def _begin(self) -> None:
        try:
            fcntl.flock(self._bits, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = f"{self.target.name} is pulled by another process already; wait for it, or end that one"
            raise TwdError(FailureCode.BUSY, text) from None
        raw = os.pread(self._bits, _HEAD_BYTES + len(self.have.data), 0)
        head = read_as(_Head, raw[:_HEAD_BYTES].rstrip(b"\0 \n"))
        if head is not None:
            self._check_same(head)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        found = os.fstat(self.descriptor)
        if not self._some:  # who wants only some bytes checks the room for these
            self._check_room(found.st_blocks * 512)
        if head is not None and found.st_size == self.checks.size:
            self.have = Bitmap(len(self.checks), raw[_HEAD_BYTES:])
            self._read_hashes()
            if found.st_mtime_ns != head.mtime_ns:
                self._recheck()
        os.ftruncate(self.descriptor, self.checks.size)
        self._write_head(0)
        os.pwrite(self._bits, bytes(self.have.data), _HEAD_BYTES)

    def _check_same(self, head: _Head) -> None:
        if (head.name, head.size, head.unit) != (self.name, self.checks.size, self.checks.unit):
            text = (
                f"{self.path} holds part of another file (root {head.name[:12]}, here {self.name[:12]}); "
                f"remove it and {self._bitmap_path.name}, or pull to another name"
            )
            raise TwdError(FailureCode.BAD_REQUEST, text)

    def _check_room(self, taken: int) -> None:
        free, needed = shutil.disk_usage(self.target.parent).free, self.checks.size - taken
        if needed > max(0, free - ROOM_LEFT):
            text = (
                f"{self.target.name} needs {needed} bytes more, and {self.target.parent} has {free} free; "
                "make room there, or pull to another disk"
            )
            raise NoRoomForFile(text)

    def _recheck(self) -> None:
        """Check all marked units again, as the file was not closed normally or was changed."""
        for index in list(self.have):
            begin, length = self.checks.place(index)
            if not self.checks.holds(index, os.pread(self.descriptor, length, begin)):
                self.have.discard(index)

    def _read_hashes(self) -> None:
        """Read the hashes of units that came before; a unit without one comes again."""
        if not self._learns:
            return
        kept = os.pread(self._bits, HASH_BYTES * len(self.checks), self._hashes_at)
        for index in list(self.have):
            digest = kept[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            if len(digest) == HASH_BYTES and any(digest):
                self.checks.digests[index] = self.checks.digests[index] or digest
            else:
                self.have.discard(index)

    # -- units ---------------------------------------------------------------------------------

    def put(self, index: int, data: Bytes) -> bool:
        """Write a unit that was checked already, and mark it; returns whether it is new."""
        begin, _ = self.checks.place(index)
        if index in self.have:
            return False
        view = memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, begin)
            view, begin = view[written:], begin + written
        self._mark(index)
        return True

    def _mark(self, index: int) -> None:
        digest = self.checks.digests[index]
        if self._learns and digest is not None:
            os.pwrite(self._bits, digest, self._hashes_at + index * HASH_BYTES)
        with self._lock:
            self.have.add(index)
            at = index >> 3
            os.pwrite(self._bits, self.have.data[at : at + 1], _HEAD_BYTES + at)

    def take_written(self, index: int, *, define: bool = False) -> bool:
        """Check a unit that was copied into the file, and mark it if it is right; returns whether it is.

        `define`: if its hash is unknown, that of these bytes is taken.
        """
        begin, length = self.checks.place(index)
        data = os.pread(self.descriptor, length, begin)
        if define and len(data) == length and self.checks.digests[index] is None:
            self.checks.learn(index, self.checks.digest(data))
        elif not self.checks.holds(index, data):
            return False
        self._mark(index)
        return True

    def read(self, begin: int, length: int) -> bytes:
        """Return checked bytes; raises if some of them are not there."""
        if not self.have.has_all(self.checks.of_range(begin, begin + length)):
            raise TwdError(FailureCode.MODEL_NOT_FOUND, f"{self.path.name} does not have these bytes yet")
        return os.pread(self.descriptor, length, begin)

    def missing(self) -> Iterator[int]:
        """Yield the missing units."""
        return (index for index in range(len(self.checks)) if index not in self.have)

    # -- on the disk -----------------------------------------------------------------------------

    def sync(self) -> None:
        """Write everything to the disk, first the bytes, then the bitmap."""
        with self._closing:
            if self.descriptor >= 0:
                os.fdatasync(self.descriptor)
                os.fdatasync(self._bits)

    def forget(self) -> None:
        """Clear the bitmap, and hashes that were learned: all units are pulled again."""
        self.have = Bitmap(len(self.checks))
        if self._learns:
            self.checks.digests[:] = [None] * len(self.checks)
        os.pwrite(self._bits, bytes(self.have.data), _HEAD_BYTES)

    def finish(self) -> None:
        """Rename the complete file to its final name."""
        assert self.have.complete
        os.fsync(self.descriptor)
        os.fchmod(self.descriptor, 0o644 & ~_umask())
        self.path.replace(self.target)
        self._bitmap_path.unlink(missing_ok=True)
        sync_folder(self.target.parent)
        self._let_go()

    def close(self) -> None:
        """Close the file, so that it can be continued later."""
        if self.descriptor >= 0:
            os.fsync(self.descriptor)
            self._write_head(os.fstat(self.descriptor).st_mtime_ns)
            os.fdatasync(self._bits)
        self._let_go()

    def remove(self) -> None:
        """Delete the file."""
        self._let_go()
        self.path.unlink(missing_ok=True)
        self._bitmap_path.unlink(missing_ok=True)

    def _write_head(self, mtime_ns: int) -> None:
        head = msgspec.json.encode(_Head(self.name, self.checks.size, self.checks.unit, mtime_ns, self._some))
        os.pwrite(self._bits, head.ljust(_HEAD_BYTES), 0)

    def _let_go(self) -> None:
        with self._closing:
            for one in (self.descriptor, self._bits):
                if one >= 0:
                    os.close(one)
            self.descriptor = self._bits = -1


class NoRoomForFile(TwdError):
    """Raised when the disk has no room for the file."""

    def __init__(self, text: str) -> None:
        super().__init__(FailureCode.DISK_FULL, text)


def sync_folder(folder: Path) -> None:
    """Write a folder to the disk, so that a new name in it is not lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def look(target: Path) -> Found | None:
    """Return what is here of a partial file; None if there is none."""
    read = _read(target)
    if read is None:
        return None
    head, bitmap = read
    return Found(bitmap.count, bitmap.length, head.name, head.some)


def missing_bytes(target: Path, checks: Checks, ranges: Iterable[tuple[int, int]]) -> int:
    """Return how many bytes must come so that these ranges of a file are there."""
    read = _read(target)
    have = read[1] if read is not None else Bitmap(len(checks))
    wanted = {index for begin, end in ranges for index in checks.of_range(begin, end)}
    return sum(checks.place(index)[1] for index in wanted if index not in have)


def closed_units(target: Path) -> Bitmap | None:
    """Return the units of a partial file that nobody changed since it was closed in order; None for any other."""
    read = _read(target)
    if read is None:
        return None
    head, bitmap = read
    try:
        found = part_of(target).stat()
    except OSError:
        return None
    return bitmap if (found.st_size, found.st_mtime_ns) == (head.size, head.mtime_ns) else None


def _read(target: Path) -> tuple[_Head, Bitmap] | None:
    try:
        raw = bitmap_of(target).read_bytes()
    except OSError:
        return None
    head = read_as(_Head, raw[:_HEAD_BYTES].rstrip(b"\0 \n"))
    if head is None or head.unit < 1:
        return None
    return head, Bitmap(-(-head.size // head.unit), raw[_HEAD_BYTES:])
