"""Finds the memory cgroups that this process is in: a container's, and any of its own inside of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
_PAGE_CACHE: Final = ("inactive_file", "active_file")


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The files of one cgroup with its limit and its use in bytes, and the names of its counters of page cache."""

    limit: Path
    used: Path
    page_cache: tuple[str, ...]


def memory_groups() -> list[MemoryGroup]:
    """The cgroups of this process, the innermost first. Each may have a limit; the least one holds."""
    try:
        told = OWN.read_text()
    except OSError:  # not Linux
        told = ""
    return groups_of(told, ROOT)


def groups_of(told: str, root: Path) -> list[MemoryGroup]:
    """The same for the text of /proc/self/cgroup. Pure. Groups that a container cannot see are named, too."""
    found: list[MemoryGroup] = []
    for line in told.splitlines():
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if "memory" in kinds.split(","):
            found += map(_version_1, _upwards(root / "memory", path))
        elif number == "0" and not kinds:
            found += map(_version_2, _upwards(root, path))
    return found or [_version_2(root), _version_1(root / "memory")]


def _upwards(root: Path, path: str) -> Iterator[Path]:
    inside = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for depth in range(len(inside), -1, -1):
        yield root.joinpath(*inside[:depth])


def _version_1(folder: Path) -> MemoryGroup:
    counters = tuple(f"total_{name}" for name in _PAGE_CACHE)
    return MemoryGroup(folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes", counters)


def _version_2(folder: Path) -> MemoryGroup:
    return MemoryGroup(folder / "memory.max", folder / "memory.current", _PAGE_CACHE)
