"""A file that this machine shares, complete or partial, and the clients that follow its new units."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
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
from twd.pieces.names import part_of
from twd.pieces.page_care import let_go, warm_units
from twd.pieces.partial import PartialFile, closed_units
from twd.pieces.source import News
from twd.pieces.tree import UNIT
from twd.wire.failures import FailureCode, TwdError

NEWS_S: Final = 0.05
"""News of so many seconds are sent together."""
HASHES_MAX: Final = 8192
"""The most hashes in one message."""
ALIVE_S: Final = 8.0
"""Without news, an empty message is sent this often (seconds) as a sign of life."""


@dataclass(eq=False)
class _Follower:
    have: set[int] = field(default_factory=set)
    coming: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> News:
        """Return all news since the last call."""
        coming = self.coming - self.have
        news = News(have=sorted(self.have), coming=sorted(coming), lost=sorted(self.lost - self.have - coming))
        self.have, self.coming, self.lost = set(), set(), set()
        self.stirred.clear()
        return news


class Shared:
    """One shared file. `descriptor` stays open, so that a renamed file is still served."""

    def __init__(self, manifest: Manifest, path: Path, descriptor: int, have: Bitmap) -> None:
        self.manifest, self.path, self.descriptor, self.have = manifest, path, descriptor, have
        self.checks = Checks.of(manifest)
        self.coming: set[int] = set()
        self.changed = self.closed = False
        self._users = 0
        self._followers: set[_Follower] = set()
        self._stat: tuple[int, int] | None = None
        """Size and mtime of a complete file; None while it is partial."""
        self._warm: Bitmap | None = None

    @classmethod
    def whole(cls, manifest: Manifest, path: Path) -> "Shared":
        """Return a share of a complete file."""
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
        """Return a share of a partial file."""
        return cls(manifest, file.target, os.dup(file.descriptor), file.have)

    @classmethod
    def kept(cls, manifest: Manifest, target: Path) -> "Shared | None":
        """Return a share of a partial file that nobody pulls now; None if it was not closed in order."""
        have = closed_units(target)
        if have is None or len(have) != len(Checks.of(manifest)):
            return None
        return cls(manifest, target, os.open(part_of(target), os.O_RDONLY | os.O_CLOEXEC), have)

    @property
    def name(self) -> str:
        """The root of the file."""
        return self.manifest.name

    @cached_property
    def manifest_bytes(self) -> bytes:
        """The manifest as JSON bytes."""
        return encode_manifest(self.manifest)

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns

    def fit(self) -> bool:
        """Return whether the file is unchanged; a complete file that changed is not served any more."""
        if self._stat is not None and not self.closed and self._stat != self._look():
            self.changed = True
        return not self.changed

    def was_warm(self, begin: int) -> bool:
        """Return whether this part was in the page cache before it was read for others: then this machine uses it.

        Parts of a partial file always count as used: other machines will soon ask for them. The first call checks the
        whole file.
        """
        if not self.have.complete:
            return True
        if self._warm is None:
            self._warm = warm_units(self.descriptor, self.checks.size)
        return begin // UNIT in self._warm

    def let_go(self, begin: int, length: int) -> None:
        """Drop these bytes from the page cache."""
        if not self.closed:
            let_go(self.descriptor, begin, length)

    def settled(self, path: Path) -> None:
        """Note that the file is complete and has its final name."""
        self.path = path
        if not self.closed:
            self._stat = self._look()

    @property
    def has_name(self) -> bool:
        """Whether the file is complete and has its final name."""
        return self._stat is not None

    def pieces(self) -> list[int]:
        """Return the numbers of the pieces that are complete."""
        size, count = self.manifest.piece_size, -(-self.manifest.total_size // self.manifest.piece_size)
        return [index for index in range(count) if self.has_range(index * size, (index + 1) * size)]

    def has_range(self, begin: int, end: int) -> bool:
        """Return whether all of these bytes are there and checked."""
        return self.have.complete or self.have.has_all(self.checks.of_range(begin, end))

    # -- news ------------------------------------------------------------------------------------

    def came(self, index: int) -> None:
        """Tell the followers that a unit is there."""
        self.coming.discard(index)
        for one in self._followers:
            one.have.add(index)
            one.stirred.set()

    def asked(self, indexes: Iterable[int]) -> None:
        """Tell the followers that units are being fetched."""
        some = set(indexes)
        self.coming |= some
        for one in self._followers:
            one.coming |= some
            one.lost -= some
            one.stirred.set()

    def lost(self, indexes: Iterable[int]) -> None:
        """Tell the followers that requested units did not come."""
        some = {index for index in indexes if index in self.coming}
        self.coming -= some
        for one in self._followers:
            one.lost |= some
            one.coming -= some
            one.stirred.set()

    async def follow(self, *, hashes: bool = False) -> AsyncIterator[News]:
        """Yield first the units that are there, then new ones, until the file is complete.

        `hashes`: after each list of units, their hashes, for a puller that has no manifest.
        """
        one = _Follower(set(self.have), set(self.coming))
        self._followers.add(one)
        try:
            while True:
                news = one.take()
                yield news
                for told in self._hashes_of(news.have) if hashes else ():
                    yield told
                if self.closed or (self.have.complete and not one.stirred.is_set()):
                    return
                if await heard(one.stirred, ALIVE_S):
                    await asyncio.sleep(NEWS_S)
        finally:
            self._followers.discard(one)

    def _hashes_of(self, units: Sequence[int]) -> Iterator[News]:
        for begin in range(0, len(units), HASHES_MAX):
            some = ((index, self.checks.digests[index]) for index in units[begin : begin + HASHES_MAX])
            yield News(hashes={index: digest.hex() for index, digest in some if digest is not None})

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the descriptor open inside this context, even if the share is closed meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_unused()

    def close(self) -> None:
        """Stop to share this file."""
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
