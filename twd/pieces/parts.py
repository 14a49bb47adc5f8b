"""The folder of partial files that came for their layers: what they take, and which go when others need the room."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from twd.pieces.manifest import Manifest
from twd.pieces.names import BITMAP, bitmap_of, manifest_of, part_of
from twd.pieces.partial import ROOM_LEFT, NoRoomForFile
from twd.process.platform import disk_bytes

SHARE_OF_DISK: Final = 4
GIB: Final = 1 << 30
_NAME: Final = 16


class KeptPart(NamedTuple):
    """A partial file. `target` is the name that the whole file would have; `used_at` is in seconds since 1970."""

    target: Path
    disk_bytes: int
    used_at: float

    @property
    def path(self) -> Path:
        """The file with the bytes."""
        return part_of(self.target)

    @property
    def folder(self) -> Path:
        """The folder of all partial files."""
        return self.target.parent.parent


@dataclass(frozen=True)
class PartFolder:
    """Partial files below one folder, each in a folder named after its root."""

    folder: Path
    budget_bytes: int = 0
    """The most bytes of all of them; 0: a quarter of the disk."""

    @classmethod
    def of(cls, cache: Path, disk_gib: float | str) -> "PartFolder":
        """Return the one in a cache folder, by the setting `swarm.disk_gib`."""
        size = 0 if isinstance(disk_gib, str) else max(1, round(disk_gib * GIB))
        return cls(cache / "parts", size)

    def place(self, manifest: Manifest) -> Path:
        """Return where a file belongs."""
        return self.folder / manifest.name[:_NAME] / manifest.filename

    def target(self, manifest: Manifest) -> Path:
        """Return where a file belongs, and make its folder."""
        place = self.place(manifest)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return place

    def contents(self) -> list[KeptPart]:
        """Return all partial files, the longest unused first."""
        return sorted(self._look(), key=lambda one: (one.used_at, one.target))

    def _look(self) -> Iterator[KeptPart]:
        for bitmap in self.folder.glob(f"*/*{BITMAP}"):
            target = bitmap.with_name(bitmap.name.removesuffix(BITMAP))
            with contextlib.suppress(OSError):  # removed by another process
                part = part_of(target).stat()
                yield KeptPart(target, disk_bytes(part), max(part.st_mtime, bitmap.stat().st_mtime))

    @property
    def budget(self) -> int:
        """The most bytes that partial files may take."""
        return self.budget_bytes or shutil.disk_usage(_existing(self.folder)).total // SHARE_OF_DISK

    def room(self) -> int:
        """Return the bytes that more partial files may take, when all that are unused give way."""
        held = sum(one.disk_bytes for one in self.contents())
        free = shutil.disk_usage(_existing(self.folder)).free - ROOM_LEFT
        return max(0, min(self.budget, free + held))

    def make_room(self, needed: int, keep: Sequence[Path]) -> None:
        """Remove the longest unused files, until so many more bytes fit; raises TwdError if they cannot. `keep`: the
        targets of files that stay."""
        held = self.contents()
        total = sum(one.disk_bytes for one in held)
        for one in held:
            if total + needed <= self.budget and self._free() >= needed:
                return
            if one.target not in keep and remove(one.target):
                total -= one.disk_bytes
        if total + needed > self.budget or self._free() < needed:
            more = max(0, min(self.budget - total, self._free()))
            what = f"{needed / GIB:.2f} GiB of {keep[0].name} are needed"
            text = f"{what}, and {self.folder} may take {more / GIB:.2f} GiB more; make room, or raise swarm.disk_gib"
            raise NoRoomForFile(text)

    def _free(self) -> int:
        return shutil.disk_usage(_existing(self.folder)).free - ROOM_LEFT


def remove(target: Path) -> bool:
    """Remove a partial file and what belongs to it, unless somebody pulls it now."""
    try:
        bits = os.open(bitmap_of(target), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(bits, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in (part_of(target), manifest_of(target), bitmap_of(target)):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()
    except OSError:
        return False
    finally:
        os.close(bits)
    return True


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())
