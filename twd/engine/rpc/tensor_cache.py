"""Weights that an RPC worker keeps on disk, so that a model that is loaded again need not be sent again.

llama.cpp names each file by the hash of its bytes. It does not check whether a file was written completely, nor what
it reads, so an incomplete file would give wrong weights. Therefore each new file is renamed at once, and gets its name
back only after its hash was checked. Then it is made read-only, which marks it as checked.
"""

import itertools
import logging
import os
import queue
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.process import platform

SHARE_OF_DISK: Final = 4
FREE_SHARE: Final = 20
"""At least 1/20 of the disk stays free, whatever the budget."""
RECENT_S: Final = 600.0
"""Tensors used within this many seconds are not dropped to make room: they may belong to the same model."""
OLD_S: Final = 30 * 86400.0
LOCK: Final = ".lock"
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_UNCHECKED: Final = ".unchecked"
_log = logging.getLogger("twd.engine.rpc.worker")


@dataclass(frozen=True, slots=True)
class CachedTensors:
    """One tensor on disk, or all tensors of one worker, and the time of last use (seconds since 1970)."""

    path: Path
    disk_bytes: int
    used_at: float


class TensorCache:
    """The folder of one worker. The folders of all workers are next to each other and share the budget."""

    def __init__(self, folder: Path, budget_bytes: int = 0) -> None:
        """`budget_bytes` 0: a quarter of the disk. Raises OSError if the folder is not usable or already in use."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._budget = budget_bytes or shutil.disk_usage(folder).total // SHARE_OF_DISK
        lock = _hold(folder)
        if lock is None:
            raise BlockingIOError(f"another worker uses {folder}")
        self._lock = lock
        self._unchecked: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for path in folder.glob(f"*{_UNCHECKED}"):
            self._unchecked.put(path)
        self.put_aside()
        self._drop_old()

    def close(self) -> None:
        """Release the folder's lock."""
        os.close(self._lock)

    def put_aside(self) -> None:
        """Rename new files, so that llama.cpp does not find them. Runs in the serving thread, at each llama.cpp log
        message."""
        for entry in os.scandir(self.folder):
            if _NAME.fullmatch(entry.name) and not _is_checked(entry.stat()):
                self._put_aside(Path(entry.path))

    def _put_aside(self, written: Path) -> None:
        aside = written.with_name(written.name + _UNCHECKED)
        try:
            known = aside.exists()
            if not known and self._make_room():
                written.rename(aside)
                self._unchecked.put(aside)
                return
        except OSError as error:
            _log.warning("%s is not kept: %s", written, error.strerror or error)
        written.unlink(missing_ok=True)

    def check_next(self) -> Path | None:
        """Wait for the next renamed file and check its hash. Returns its final path, or None if it was not complete."""
        aside = self._unchecked.get()
        from twd.engine.rpc.fnv import file_fnv1a  # a worker whose models have no large tensors starts without it

        name = aside.name.removesuffix(_UNCHECKED)
        try:
            if f"{file_fnv1a(aside):016x}" != name:
                _log.warning("the disk did not take all of %s: it is dropped", aside)
                aside.unlink()
                return None
            return _take_back(aside, name)
        except OSError as error:
            _log.warning("%s is not kept: %s", aside, error.strerror or error)
            return None

    def keep_checking(self) -> None:
        """Check files for ever; run it in its own thread."""
        while True:
            self.check_next()

    def _make_room(self) -> bool:
        """Drop the longest unused tensors until the rest fits. Returns whether it fits."""
        held = contents(self.folder.parent)
        disk = shutil.disk_usage(self.folder)
        excess = max(sum(one.disk_bytes for one in held) - self._budget, disk.total // FREE_SHARE - disk.free)
        unused = (one for one in held if time.time() - one.used_at > RECENT_S)
        while excess > 0 and (one := next(unused, None)) is not None:
            excess -= one.disk_bytes if self._drop(one.path) else 0
        return excess <= 0

    def _drop_old(self) -> None:
        for one in contents(self.folder.parent):
            if time.time() - one.used_at > OLD_S:
                self._drop(one.path)

    def _drop(self, path: Path) -> bool:
        """Delete a file, unless it is in the folder of a running worker, which may read it. Returns whether it did."""
        if path.parent == self.folder:
            path.unlink(missing_ok=True)
            return True
        lock = _hold(path.parent)
        if lock is None:
            return False
        path.unlink(missing_ok=True)
        os.close(lock)
        return True


def contents(folder: Path) -> list[CachedTensors]:
    """The tensors that all workers keep below a folder, the longest unused first."""
    found = []
    for path in itertools.chain.from_iterable(map(_files, folder.iterdir() if folder.is_dir() else ())):
        try:
            stat = path.stat()
        except FileNotFoundError:  # another worker drops it at this moment
            continue
        found.append(CachedTensors(path, platform.disk_bytes(stat), max(stat.st_mtime, stat.st_atime)))
    return sorted(found, key=lambda one: (one.used_at, one.path))


def by_worker(folder: Path) -> list[CachedTensors]:
    """The total of each worker's tensors."""
    workers = itertools.groupby(sorted(contents(folder), key=lambda one: one.path), lambda one: one.path.parent)
    return [_together(worker, list(held)) for worker, held in workers]


def _together(worker: Path, held: Sequence[CachedTensors]) -> CachedTensors:
    return CachedTensors(worker, sum(one.disk_bytes for one in held), max(one.used_at for one in held))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*") if _NAME.fullmatch(path.name.removesuffix(_UNCHECKED)))


def _take_back(aside: Path, name: str) -> Path:
    with aside.open("rb") as file:
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o400)
    return aside.rename(aside.with_name(name))


def _is_checked(stat: os.stat_result) -> bool:
    return not stat.st_mode & 0o222


def _hold(folder: Path) -> int | None:
    """Lock the folder until the lock is closed or the process ends; None if another process has the lock."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    if platform.try_lock(lock):
        return lock
    os.close(lock)
    return None
