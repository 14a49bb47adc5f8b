"""How fast a disk gives experts: pieces of a file, read as the cache of experts reads them."""

import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twd.engine.experts.overlay import close_files, open_files

_READERS: Final = 8
_PIECE: Final = 1 << 20
_PIECES: Final = 96


def disk_speed(path: Path) -> float:
    """Bytes a second of pieces here and there in a file, past the page cache where the file system can do that."""
    size = path.stat().st_size
    last = max(size - _PIECE, 0) // mmap.PAGESIZE * mmap.PAGESIZE
    turns = iter([last * number // _PIECES // mmap.PAGESIZE * mmap.PAGESIZE for number in range(_PIECES)])
    (file,) = open_files([path])
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        read = _read_all(file, turns)
        return read / max(time.perf_counter() - began, 1e-6)
    finally:
        close_files([file])


def _read_all(file: int, turns: Iterator[int]) -> int:
    counts: list[int] = []
    lock = threading.Lock()

    def read() -> None:
        with mmap.mmap(-1, _PIECE) as piece:
            while True:
                with lock:
                    at = next(turns, -1)
                if at < 0:
                    return
                counts.append(os.preadv(file, [piece], at))

    readers = [threading.Thread(target=read) for _ in range(_READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return sum(counts)
