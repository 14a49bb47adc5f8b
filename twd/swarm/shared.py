"""A file as this machine shares it: whole, or on its way; and who follows what arrives."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from twd.kit.tasks import heard
from twd.pieces.bitmap import Bitmap
from twd.pieces.checks import Checks
from twd.pieces.making import open_model
from twd.pieces.manifest import Manifest, encode_manifest
from twd.pieces.page_care import let_go, warm_units
from twd.pieces.partial import PartialFile
from twd.pieces.source import News
from twd.pieces.tree import UNIT
from twd.wire.failures import FailureCode, TwdError

NEWS_S: Final = 0.05
"""News of so long are told together."""
ALIVE_S: Final = 8.0
"""Without news, an empty word says so often that this machine is there."""


@dataclass(eq=False)
class _Follower:
    have: set[int] = field(default_factory=set)
    coming: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> News:
        """All since the last time."""
        coming = self.coming - self.have
        news = News(have=sorted(self.have), coming=sorted(coming), lost=sorted(self.lost - self.have - coming))
        self.have, self.coming, self.lost = set(), set(), set()
        self.stirred.clear()
        return news


class Shared:
    """One file. `descriptor` stays open, so that a file that was renamed is still served."""

    def __init__(self, manifest: Manifest, path: Path, descriptor: int, have: Bitmap) -> None:
        self.manifest, self.path, self.descriptor, self.have = manifest, path, descriptor, have
        self.checks = Checks.of(manifest)
        self.coming: set[int] = set()
        self.changed = self.closed = False
        self._users = 0
        self._followers: set[_Follower] = set()
        self._stat: tuple[int, int] | None = None
        """Size and time of a whole file; None while it comes."""
        self._warm: Bitmap | None = None

    @classmethod
    def whole(cls, manifest: Manifest, path: Path) -> "Shared":
        """A file that is all there."""
        file = open_model(path)
        descriptor = os.dup(file.fileno())
        file.close()
        if os.fstat(descriptor).st_size != manifest.total_size:
            os.close(descriptor)
            text = f"{path} has another size than its manifest says; make the manifest again"
            raise TwdError(FailureCode.WRONG_BYTES, text)
        shared = cls(manifest, path, descriptor, Bitmap.full(len(Checks.of(manifest))))
        shared.settled(path)
        return shared

    @classmethod
    def partial(cls, manifest: Manifest, file: PartialFile) -> "Shared":
        """A file on its way."""
        return cls(manifest, file.target, os.dup(file.descriptor), file.have)

    @property
    def name(self) -> str:
        """Its root."""
        return self.manifest.name

    @cached_property
    def manifest_bytes(self) -> bytes:
        """The manifest as it is sent."""
        return encode_manifest(self.manifest)

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns

    def fit(self) -> bool:
        """Whether the file is still what the manifest says; a whole file that changed is served no more."""
        if self._stat is not None and not self.closed and self._stat != self._look():
            self.changed = True
        return not self.changed

    def was_warm(self, begin: int) -> bool:
        """Whether this part lay in memory before it was read for others: somebody here works with it then.

        Parts of a file that still comes stay: the next one to ask is not far. The first call looks at the whole file.
        """
        if not self.have.complete:
            return True
        if self._warm is None:
            self._warm = warm_units(self.descriptor, self.checks.size)
        return begin // UNIT in self._warm

    def let_go(self, begin: int, length: int) -> None:
        """What was read for others leaves the memory."""
        if not self.closed:
            let_go(self.descriptor, begin, length)

    def settled(self, path: Path) -> None:
        """It is whole now, and has its name."""
        self.path, self._stat = path, self._look()

    def pieces(self) -> list[int]:
        """The pieces of the manifest that are there whole."""
        size, count = self.manifest.piece_size, -(-self.manifest.total_size // self.manifest.piece_size)
        return [index for index in range(count) if self.has_range(index * size, (index + 1) * size)]

    def has_range(self, begin: int, end: int) -> bool:
        """Whether all of these bytes are there and checked."""
        return self.have.complete or self.have.has_all(self.checks.of_range(begin, end))

    # -- news ------------------------------------------------------------------------------------

    def came(self, index: int) -> None:
        """A unit is there."""
        self.coming.discard(index)
        for one in self._followers:
            one.have.add(index)
            one.stirred.set()

    def asked(self, indexes: Iterable[int]) -> None:
        """Units are on their way."""
        some = set(indexes)
        self.coming |= some
        for one in self._followers:
            one.coming |= some
            one.lost -= some
            one.stirred.set()

    def lost(self, indexes: Iterable[int]) -> None:
        """Units were asked for and did not come."""
        some = {index for index in indexes if index in self.coming}
        self.coming -= some
        for one in self._followers:
            one.lost |= some
            one.coming -= some
            one.stirred.set()

    async def follow(self) -> AsyncIterator[News]:
        """What is there, then what arrives, until all is there."""
        one = _Follower(set(self.have), set(self.coming))
        self._followers.add(one)
        try:
            while True:
                yield one.take()
                if self.closed or (self.have.complete and not one.stirred.is_set()):
                    return
                if await heard(one.stirred, ALIVE_S):
                    await asyncio.sleep(NEWS_S)
        finally:
            self._followers.discard(one)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While bytes are sent the descriptor stays what it is, even if the file is shared no more."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_unused()

    def close(self) -> None:
        """Serve it no more."""
        if self.closed:
            return
        self.changed = self.closed = True
        for one in self._followers:
            one.stirred.set()
        self._close_unused()

    def _close_unused(self) -> None:
        if self.closed and not self._users and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
