"""A file that gets its name when it is whole: nobody ever sees half of it, even after kill -9."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from twd.wire.failures import FailureCode, TwdError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAMELESS: Final = getattr(os, "O_TMPFILE", 0)
_BUFFER_BYTES: Final = 1 << 20


@contextmanager
def new_file(target: Path) -> Iterator[int]:
    """A descriptor to write to; when the block ends without an error, the file gets its name, and replaces another.

    On Linux the file has no name until then, so the system removes it when this process is killed. Elsewhere it has a
    hidden name, which the next run for the same target takes over.
    """
    partial = target.with_name(f".{target.name}.partial")
    with disk_errors(target):
        handle, nameless = _open(target, partial)
        try:
            yield handle
            os.fsync(handle)
            if nameless:
                partial.unlink(missing_ok=True)
                _give_name(handle, partial)
            partial.replace(target)
        except BaseException:
            if not nameless:
                partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def _give_name(handle: int, path: Path) -> None:
    """Python follows the link in /proc only where a folder is named, too, though the path is whole."""
    os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle)


def _open(target: Path, partial: Path) -> tuple[int, bool]:
    target.parent.mkdir(parents=True, exist_ok=True)
    if _NAMELESS and Path("/proc/self/fd").is_dir():
        with contextlib.suppress(OSError):  # some file systems have no such files
            return os.open(target.parent, _NAMELESS | os.O_WRONLY, 0o644), True
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise TwdError(FailureCode.BUSY, f"another process writes {target} at this moment; wait for it") from None
    os.ftruncate(handle, 0)
    return handle, False


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """What the system says about the target becomes a failure that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            text = f"the disk of {target.parent} is full; free some space there, or name another folder"
            raise TwdError(FailureCode.MODEL_LOAD, text) from None
        raise TwdError(FailureCode.BAD_REQUEST, f"cannot write {target}: {error.strerror or error}") from None


class FileCopier:
    """Copies ranges of files to the end of another, by way of a buffer that fits the processor's cache.

    `copy_file_range` was not quicker: the ranges of experts do not begin where pages do.
    """

    def __init__(self, into: int) -> None:
        self._into = into
        self._open: dict[Path, int] = {}
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def copy(self, path: Path, offset: int, size: int) -> Iterator[int]:
        """Append a range; says after each piece how large it was."""
        source = self._open.get(path)
        if source is None:
            source = self._open[path] = os.open(path, os.O_RDONLY)
        while size:
            count = self._piece(source, offset, size)
            if not count:
                raise TwdError(FailureCode.MODEL_LOAD, f"{path} became shorter while it was read; fetch it again")
            offset, size = offset + count, size - count
            yield count

    def _piece(self, source: int, offset: int, size: int) -> int:
        count = os.preadv(source, [self._buffer[:size]], offset)
        write_all(self._into, self._buffer[:count])
        return count

    def __enter__(self) -> "FileCopier":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._open.values():
            os.close(handle)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of it, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
