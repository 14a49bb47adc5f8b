"""Where versions lie: PREFIX/versions/VERSION is an environment of its own, PREFIX/current a link to the one in use.

This file needs no package: an installer runs it before there are any.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

COMPLETE: Final = "twd-complete"
"""A file in each version folder that is whole; a folder without it is the rest of a failed installation."""
KEEP: Final = 2
"""How many versions stay: the one in use, and the one before it."""
HIDDEN: Final = ".old-"
"""What the name of a version begins with while it is removed."""
VERSION: Final = re.compile(r"\d+(\.\d+)*([a-z]+\d*)?([.+-][A-Za-z0-9.]+)?")


class VersionProblem(Exception):
    """Something that keeps a version from being installed or taken, in words that say what to do."""


class VersionsFolder:
    """One installation with all its versions."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.versions = prefix / "versions"
        self.current = prefix / "current"
        self.previous = prefix / "previous"

    @classmethod
    def of_program(cls, executable: str = sys.executable) -> "VersionsFolder | None":
        """Return the installation that a Python belongs to; None for a checkout or an environment of somebody else."""
        _, version, place, *above = Path(executable).absolute().parents
        by_link = version.name == "current" and version.is_symlink() and (place / "versions").is_dir()
        if by_link:
            return cls(place)
        inside = place.name == "versions" and above and (above[0] / "current").is_symlink()
        return cls(above[0]) if inside else None

    def folder_of(self, version: str) -> Path:
        """Return the folder of a version; raises VersionProblem for a name that is none."""
        if not VERSION.fullmatch(version):
            raise VersionProblem(f"{version!r} is no version")
        return self.versions / version

    def is_complete(self, version: str) -> bool:
        """Whether this version is there whole: it says so itself, or was in use, as those of `twd deploy`."""
        folder = self.folder_of(version)
        was_used = version in (_target(self.current), _target(self.previous))
        return (folder / COMPLETE).is_file() or (was_used and self.program(version).exists())

    def listed(self) -> list[str]:
        """Return all versions that are there whole, oldest first."""
        names = [folder.name for folder in self.versions.glob("*") if VERSION.fullmatch(folder.name)]
        return sorted((name for name in names if self.is_complete(name)), key=order)

    def in_use(self) -> str:
        """Return the current version; empty where there is none."""
        return _target(self.current)

    def before(self) -> str:
        """Return the version that was in use before; empty where there is none, or it is gone."""
        name = _target(self.previous)
        return name if name and self.is_complete(name) else ""

    def take(self, version: str) -> None:
        """Make a version the current one, in one step."""
        if not self.is_complete(version):
            raise VersionProblem(
                f"version {version} is not there whole; there are: {', '.join(self.listed()) or 'none'}"
            )
        old = self.in_use()
        if old and old != version:
            _link(self.previous, f"versions/{old}")
        _link(self.current, f"versions/{version}")

    def give_back(self, version: str, before: str) -> None:
        """Make a version the current one again, with the one that was before it."""
        _link(self.current, f"versions/{version}")
        if before:
            _link(self.previous, f"versions/{before}")
        else:
            self.previous.unlink(missing_ok=True)

    def remove_rest(self, version: str) -> None:
        """Remove what a failed installation left."""
        folder = self.folder_of(version)
        if folder.exists() and not self.is_complete(version):
            shutil.rmtree(folder)

    def program(self, version: str = "") -> Path:
        """Return the program `twd` of a version; without a name, by way of the link."""
        folder = self.folder_of(version) if version else self.current
        return folder / ("Scripts" if os.name == "nt" else "bin") / "twd"


def order(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Return what versions are sorted by: their numbers; 1.0rc1 comes before 1.0."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    rest = version[numbers.end() :] if numbers else version
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts), not rest[:1].isalpha(), rest


def _target(link: Path) -> str:
    try:
        return Path(os.readlink(link)).name
    except OSError:
        return ""


def _link(link: Path, target: str) -> None:
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target, target_is_directory=True)
    draft.replace(link)
