"""The names of the swarm's files beside a model file, and which file names a manifest may contain."""

from pathlib import Path
from typing import Final

from twd.wire.failures import FailureCode, TwdError

MANIFEST: Final = ".twd.manifest"
OLD_MANIFEST: Final = ".tightwad.manifest"
BITMAP: Final = ".twd.pieces"
PART: Final = ".twd.part"
WISH: Final = ".twd.wish"
NAME_BYTES_MAX: Final = 200


def manifest_of(file: Path) -> Path:
    """Return the path of a file's manifest."""
    return file.with_name(file.name + MANIFEST)


def old_manifest_of(file: Path) -> Path:
    """Return the path of the manifest that tightwad writes for a file."""
    return file.with_name(file.name + OLD_MANIFEST)


def bitmap_of(file: Path) -> Path:
    """Return the path of the bitmap of a partial file."""
    return file.with_name(file.name + BITMAP)


def part_of(file: Path) -> Path:
    """Return the path of the bytes of a partial file, before it gets its final name."""
    return file.with_name(file.name + PART)


def wish_of(file: Path) -> Path:
    """Return the path of what was asked of a hub for a file, while it is on its way."""
    return file.with_name(file.name + WISH)


def check_name(name: str) -> str:
    """Return a file name without folders; raises if it could lead to another folder."""
    plain = name not in ("", ".", "..") and not any(letter in name or not letter.isprintable() for letter in "/\\")
    if not plain or not name.isprintable() or len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX:
        text = f"{name[:80]!r} is no plain file name; make the manifest again with `twd manifest create`"
        raise TwdError(FailureCode.BAD_REQUEST, text, "filename")
    return name
