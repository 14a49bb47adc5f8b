"""The manifest of a file that still comes: its bytes are hashed in order while the rest is on its way."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.gguf_tools.header import BrokenGguf, GgufHeader, read_header
from twd.kit.progress import Share, unheard
from twd.pieces.hashing import BATCH, FileHashes
from twd.pieces.making import manifest_from, tensor_places
from twd.pieces.manifest import Manifest

HEADER_BYTES_MAX: Final = 1 << 28


def header_before(path: Path, end: int) -> GgufHeader | None:
    """Return the header of a file of which the bytes before `end` are there; None if it goes on behind them."""
    try:
        header = read_header(path)
    except BrokenGguf:  # what did not come yet reads as zeros
        return None
    return header if header.data_offset <= end else None


class GrowingManifest:
    """Hashes a file from its begin on, as far as it is there. Blocks; several threads may call it."""

    def __init__(self, path: Path, size: int, piece_bytes: int) -> None:
        self._path, self._size, self._piece_bytes = path, size, piece_bytes
        self._descriptor = -1
        self._closed = False
        self._hashes: FileHashes | None = None
        self._header: GgufHeader | None = None
        self._lock = threading.Lock()

    def worth(self, end: int) -> bool:
        """Return whether so many bytes more are there that they should be read now."""
        return end - (self._hashes.at if self._hashes is not None else 0) >= BATCH

    def advance(self, end: int, progress: Share = unheard) -> None:
        """Read the bytes before `end`; all of them must be there and checked."""
        with self._lock:
            if self._closed or (self._hashes is None and not self._begin(end)):
                return
            assert self._hashes is not None
            if end > self._hashes.at:
                self._hashes.read(self._descriptor, end, progress=progress)

    def _begin(self, end: int) -> bool:
        """Find the tensors, once the header is there; returns whether hashing can begin."""
        self._header = header_before(self._path, end)
        if self._header is None and end < min(self._size, HEADER_BYTES_MAX):
            return False
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._hashes = FileHashes(self._size, self._piece_bytes, tensor_places(self._header), with_units=False)
        return True

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, when all bytes were read."""
        assert self._hashes is not None
        return self._hashes.whole

    def finish(self, name: str, layer: Sequence[bytes]) -> Manifest:
        """Return the manifest, when all bytes were read."""
        assert self._hashes is not None
        return manifest_from(self._path, name, self._hashes, self._header, layer)

    def close(self) -> None:
        """Close the file, once nobody reads it."""
        with self._lock:
            self._closed = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
