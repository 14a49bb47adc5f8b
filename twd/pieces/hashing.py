"""All hashes of a file in one pass over its bytes, which may come in steps while the file still grows."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from twd.kit.progress import Share, unheard
from twd.pieces.bitmap import Bitmap
from twd.pieces.page_care import let_go
from twd.pieces.tree import UNIT, unit_hash
from twd.wire.failures import FailureCode, TwdError

BATCH: Final = 16 * UNIT


class Place(NamedTuple):
    """A tensor of the file."""

    name: str
    offset: int
    size: int


class FileHashes:
    """The hashes of the bytes so far. A step is hashed by several threads, while the next bytes are read."""

    def __init__(self, size: int, piece_bytes: int, tensors: Iterable[Place] = (), *, with_units: bool = True) -> None:
        """`with_units`: False where the hash of each MiB is known already."""
        self.size, self.piece_bytes, self.at = size, piece_bytes, 0
        self.places = list(tensors)
        self._whole = _Stretches([(0, size)])
        self._units = _Units(size)
        self._pieces = _Stretches((begin, min(piece_bytes, size - begin)) for begin in range(0, size, piece_bytes))
        self._tensors = _Stretches(place[1:] for place in self.places)
        self._each: list[_Stretches | _Units] = [
            self._whole,
            self._pieces,
            self._tensors,
            *([self._units] if with_units else []),
        ]

    def read(self, descriptor: int, end: int, *, warm: Bitmap | None = None, progress: Share = unheard) -> None:
        """Read on up to `end`. Parts that are not in `warm` leave the page cache again; None: all stay."""
        buffers = [memoryview(bytearray(min(BATCH, end - self.at))) for _ in range(2)]
        with ThreadPoolExecutor(len(self._each), "hash") as pool:
            waiting: list[Any] = []
            for number, at in enumerate(range(self.at, end, BATCH)):
                view = buffers[number % 2][: min(BATCH, end - at)]
                _fill(descriptor, view, at)
                if warm is not None and at // UNIT not in warm:
                    let_go(descriptor, at, len(view))
                _finish(waiting)
                waiting = [pool.submit(one.update, at, view) for one in self._each]
                progress(at / self.size)
            _finish(waiting)
        self.at = max(self.at, end)
        progress(self.at / self.size)

    @property
    def whole(self) -> str:
        """The SHA-256 of the file, in hex."""
        return self._whole.digests[0]

    @property
    def pieces(self) -> list[str]:
        """The SHA-256 of each piece."""
        return self._pieces.digests

    @property
    def tensors(self) -> list[str]:
        """The SHA-256 of each tensor."""
        return self._tensors.digests

    @property
    def layer(self) -> list[bytes]:
        """The hash of each MiB."""
        return self._units.layer


class _Stretches:
    """Computes the SHA-256 of consecutive ranges, with or without gaps between them."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        self._left = [(begin, begin + size) for begin, size in stretches][::-1]
        self._hash = hashlib.sha256()
        self.digests: list[str] = []

    def update(self, at: int, data: memoryview) -> None:
        """Add the next bytes of the file; `at` is their offset."""
        end = at + len(data)
        while self._left and self._left[-1][0] < end:
            begin, stop = self._left[-1]
            self._hash.update(data[max(begin, at) - at : min(stop, end) - at])
            if stop > end:
                return
            self.digests.append(self._hash.hexdigest())
            self._hash = hashlib.sha256()
            self._left.pop()


class _Units:
    """Computes the hashes of the units: a layer of the tree."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.layer: list[bytes] = []

    def update(self, at: int, data: memoryview) -> None:
        """Add whole units; only the last one may be shorter."""
        self.layer += [unit_hash(data[begin : begin + UNIT], self._size) for begin in range(0, len(data), UNIT)]


def _finish(waiting: Iterable[Any]) -> None:
    for one in waiting:
        one.result()


def _fill(descriptor: int, view: memoryview, at: int) -> None:
    while view:
        count = os.preadv(descriptor, [view], at)
        if not count:
            raise TwdError(FailureCode.BAD_REQUEST, "the file became shorter while it was read; try again")
        view, at = view[count:], at + count
