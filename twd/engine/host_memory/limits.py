"""How much memory this process may use, and a clear error before llama.cpp is asked for more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from twd.wire.failures import FailureCode, TwdError

_ROOT: Final = Path("/sys/fs/cgroup")
_CGROUPS: Final = (
    (_ROOT / "memory.max", _ROOT / "memory.current", ("inactive_file", "active_file")),
    (
        _ROOT / "memory/memory.limit_in_bytes",
        _ROOT / "memory/memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""For cgroup v2 and v1: the files with the limit and the use in bytes, and the counters of page cache, which the system
can free."""


def available_bytes() -> int:
    """The free memory in bytes of the machine, or of the container if that is less."""
    free = int(psutil.virtual_memory().available)
    for limit, used, files in _CGROUPS:
        try:
            free = min(free, int(limit.read_text()) - int(used.read_text()) + _cached(limit.parent, files))
        except (OSError, ValueError):  # no such container limit, or the word "max"
            continue
    return max(free, 0)


def total_bytes() -> int:
    """The total memory in bytes of the machine, or of the container if that is less."""
    total = int(psutil.virtual_memory().total)
    for limit, _, _ in _CGROUPS:
        try:
            total = min(total, int(limit.read_text()))
        except (OSError, ValueError):
            continue
    return total


def _cached(group: Path, files: Sequence[str]) -> int:
    """The bytes of page cache, which the system frees when needed, such as a model file that was read."""
    try:
        counts = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines() if " " in line)
    except OSError:
        return 0
    return sum(int(counts.get(name, 0)) for name in files)


def require_memory(needed: int, what: str) -> None:
    """Raise OUT_OF_MEMORY if `needed` bytes are more than the free memory."""
    free = available_bytes()
    if needed > free:
        raise TwdError(
            FailureCode.OUT_OF_MEMORY, f"{what} needs {gib(needed)} of memory, but only {gib(free)} are free"
        )


def gib(size: int) -> str:
    """A number of bytes as text, in MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
