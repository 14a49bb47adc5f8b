"""Writes a slice of a model to a file. The data is streamed, and the file appears complete or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from twd.gguf_tools.encode import encode_start, encode_tensor
from twd.gguf_tools.header import aligned, read_header
from twd.gguf_tools.inspect import shards_of
from twd.gguf_tools.model_file import file_hash
from twd.gguf_tools.slice_layout import FileRange, SliceFacts, SliceLayout, lay_out, require_sliceable
from twd.gguf_tools.slice_rules import CutPoints, cuts_of
from twd.kit.progress import Share, unheard
from twd.process.platform import disk_bytes
from twd.wire.failures import FailureCode, TwdError

PARTIAL: Final = ".partial"
_CHUNK_BYTES: Final = 4 << 20
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class WrittenSlice:
    """A slice on disk. Zeros are holes if the file system supports them, so `disk_bytes` may be below `size_bytes`."""

    path: Path
    facts: SliceFacts
    size_bytes: int
    disk_bytes: int


class DiskFull(TwdError):
    """There is no room for a slice; no part of it is left on disk."""

    def __init__(self, target: Path, what: str) -> None:
        text = f"no room for the slice {target.name}: {what}; free some space there, or name another folder"
        super().__init__(FailureCode.MODEL_LOAD, text)


def plan_slice(source: Path, first: int, end: int, *, head: bool) -> SliceLayout:
    """The layout of a slice; raises TwdError if this model or this cut is refused."""
    shards = [read_header(shard) for shard in shards_of(source)]
    return lay_out(shards, file_hash(source), first, end, head=head)


def read_cuts(source: Path) -> CutPoints:
    """Where a model may be cut; raises TwdError if it cannot be cut."""
    shards = [read_header(shard) for shard in shards_of(source)]
    require_sliceable(shards)
    return cuts_of(shards[0])


def write_slice(
    source: Path, first: int, end: int, target: Path, *, head: bool, progress: Share = unheard
) -> WrittenSlice:
    """Write layers `first` to `end` (not included) of `source` to `target`; `head` adds the output matrix."""
    layout = plan_slice(source, first, end, head=head)
    if target.exists() and any(target.samefile(shard) for shard in shards_of(source)):
        raise TwdError(FailureCode.BAD_REQUEST, f"{target} is the model itself; name another file for the slice")
    with _disk_errors(target), _unfinished(target) as file:
        _require_room(target, layout)
        _write(file, layout, progress)
    stat = target.stat()
    return WrittenSlice(target, layout.facts, stat.st_size, disk_bytes(stat))


@contextmanager
def _unfinished(target: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces the target on success, and is deleted otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        path.chmod(0o644)
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(target, f"the disk of {target.parent} is full") from None
        raise TwdError(FailureCode.BAD_REQUEST, f"cannot write {target}: {error.strerror or error}") from None


def _require_room(target: Path, layout: SliceLayout) -> None:
    needed = sum(tensor.size for tensor in layout.tensors if tensor.source)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DiskFull(target, f"it needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free")


def _write(file: BinaryIO, layout: SliceLayout, progress: Share) -> None:
    file.write(encode_start(len(layout.tensors), len(layout.fields)))
    with _Sources() as sources:
        for one in layout.fields:
            file.write(one) if isinstance(one, bytes) else sources.copy(one, file)
        offset = 0
        for tensor in layout.tensors:
            file.write(encode_tensor(tensor.name, tensor.shape, tensor.kind, offset))
            offset += aligned(tensor.size, layout.alignment)
        start = aligned(file.tell(), layout.alignment)
        _write_tensors(file, layout, start, sources, progress)
        file.truncate(start + offset)


def _write_tensors(file: BinaryIO, layout: SliceLayout, start: int, sources: "_Sources", progress: Share) -> None:
    total = sum(tensor.size for tensor in layout.tensors if tensor.source) or 1
    done, at = 0, start
    for tensor in layout.tensors:
        if tensor.source:
            file.seek(at)
            for count in sources.pieces(tensor.source, file):
                done += count
                progress(done / total)
        at += aligned(tensor.size, layout.alignment)


class _Sources:
    """The model's files, open while a slice is written."""

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO] = {}
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))

    def copy(self, stretch: FileRange, into: BinaryIO) -> None:
        """Copy a range of a file to the current place of another."""
        for _ in self.pieces(stretch, into):
            pass

    def pieces(self, stretch: FileRange, into: BinaryIO) -> Iterator[int]:
        """The same, piece by piece; yields the size of each piece in bytes."""
        file = self._open.get(stretch.path)
        if file is None:
            file = self._open[stretch.path] = stretch.path.open("rb", buffering=0)
        file.seek(stretch.offset)
        left = stretch.size
        while left:
            count = file.readinto(self._buffer[: min(left, _CHUNK_BYTES)])  # type: ignore[attr-defined]
            if not count:
                raise TwdError(FailureCode.MODEL_LOAD, f"{stretch.path} became shorter while it was read")
            into.write(self._buffer[:count])
            left -= count
            yield count

    def __enter__(self) -> "_Sources":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
