"""Removes versions that nobody needs any more.

A version that goes is first moved out of sight, in one step, and then removed file by file. Whoever is killed meanwhile
leaves versions that are whole, and a rest out of sight that the next run removes.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twd.process.folder_users import users_below
from twd.setup.versions.folder import COMPLETE, HIDDEN, KEEP, VERSION, VersionProblem, VersionsFolder

Users = Callable[[Sequence[Path]], Mapping[Path, int]]
"""Returns the folders right below some folders that a process runs from, each with one process."""


@dataclass(frozen=True)
class PrunedVersions:
    """What came of it."""

    removed: tuple[str, ...] = ()
    freed: int = 0
    """Bytes."""
    running: tuple[tuple[str, int], ...] = ()
    """Versions that stay because a process runs from them, with the id of one."""

    def lines(self) -> Iterator[str]:
        """Tell it in words; nothing where there was nothing to do."""
        if self.removed:
            yield f"removed {', '.join(self.removed)}: {self.freed >> 20} MiB"
        for version, pid in self.running:
            yield f"{version} stays: process {pid} runs from it"


def superfluous(newest_first: Sequence[str], needed: Collection[str], keep: int) -> list[str]:
    """Return the versions that go: all but those needed, and the newest others while fewer than `keep` stay."""
    others = [version for version in newest_first if version not in needed]
    stay = len(newest_first) - len(others)
    return others[max(0, keep - stay) :]


def prune(folder: VersionsFolder, keep: int = KEEP, users: Users = users_below) -> PrunedVersions:
    """Remove all versions but the one in use, the one before it, and those that a process runs from.

    `keep`: how many stay, these included; the newest of the others fill up. Call it within `alone`.
    """
    if not folder.in_use() or not folder.versions.is_dir():
        return PrunedVersions()
    try:
        return _Pruning(folder, users).run(keep)
    except OSError as error:
        raise VersionProblem(f"old versions in {folder.versions} cannot be removed: {error}") from None


class _Pruning:
    """One run."""

    def __init__(self, folder: VersionsFolder, users: Users) -> None:
        self._folder = folder
        self._users = users
        self._pythons = folder.prefix / "pythons"

    def run(self, keep: int) -> PrunedVersions:
        users = self._look()
        going = superfluous(self._newest_first(), self._linked(), keep)
        running = [(version, users[place]) for version in going if (place := self._folder.folder_of(version)) in users]
        for version in going:
            if version not in dict(running):
                self._hide(self._folder.folder_of(version))
        removed, freed = self._remove_hidden()
        return PrunedVersions(tuple(removed), freed, tuple(running))

    def _look(self) -> Mapping[Path, int]:
        return self._users([self._folder.versions, self._pythons])

    def _linked(self) -> set[str]:
        links = (self._folder.current, self._folder.previous)
        return {Path(os.readlink(link)).name for link in links if link.is_symlink()}

    def _newest_first(self) -> list[str]:
        """Return all versions, and what is left of failed installations: under the lock nobody works on those."""
        found = [place for place in self._folder.versions.iterdir() if VERSION.fullmatch(place.name)]
        return [place.name for place in sorted(found, key=_installed_at, reverse=True)]

    @staticmethod
    def _hide(place: Path) -> None:
        hidden = place.with_name(HIDDEN + place.name)
        if place.is_dir() and not os.path.lexists(hidden):  # a rest of an earlier run may be there, and in use
            place.rename(hidden)

    def _remove_hidden(self) -> tuple[list[str], int]:
        """Remove what is out of sight, by this run or one that was killed; what is wanted after all comes back."""
        users, linked = self._look(), self._linked()
        removed, freed = [], 0
        for hidden in sorted(self._folder.versions.glob(f"{HIDDEN}*")):
            version = hidden.name.removeprefix(HIDDEN)
            place = self._folder.versions / version
            if version in linked or hidden in users or place in users:
                if (hidden / COMPLETE).is_file() and not place.exists():
                    hidden.rename(place)
                continue
            freed += self._forget_python(hidden, users) + _remove(hidden)
            removed.append(version)
        return removed, freed

    def _forget_python(self, version: Path, users: Mapping[Path, int]) -> int:
        """Remove the Python that was sent for a version, unless another one needs it; returns its size."""
        python = self._python_of(version)
        others = {self._python_of(one) for one in self._folder.versions.iterdir() if one != version}
        if python is None or python in others or python in users:
            return 0
        self._hide(python)
        hidden = python.with_name(HIDDEN + python.name)
        return _remove(hidden) if hidden.is_dir() and hidden not in users else 0

    def _python_of(self, version: Path) -> Path | None:
        """Return the folder of the Python of a version, if it was sent along."""
        try:
            parts = Path(os.readlink(version / "bin" / "python3")).relative_to(self._pythons.resolve()).parts
        except (OSError, ValueError):
            return None
        return self._pythons / parts[0] if parts else None


def _installed_at(place: Path) -> float:
    return place.stat().st_mtime


def _remove(place: Path) -> int:
    """Remove a folder, its mark that it is whole before all else; returns how large it was."""
    size = sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(place) for name in names)
    (place / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(place)
    return size
