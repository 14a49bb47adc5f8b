"""How much memory this process may use, and a clear error before llama.cpp is asked for more."""

from collections.abc import Sequence
from pathlib import Path

import psutil

from twd.engine.host_memory.cgroups import memory_groups
from twd.wire.failures import FailureCode, TwdError


def available_bytes() -> int:
    """The free memory in bytes of the machine, or of the container if that is less."""
    free = int(psutil.virtual_memory().available)
    for group in memory_groups():
        try:
            taken = int(group.used.read_text()) - _cached(group.limit.parent, group.page_cache)
            free = min(free, int(group.limit.read_text()) - taken)
        except (OSError, ValueError):  # no such container limit, or the word "max"
            continue
    return max(free, 0)


def total_bytes() -> int:
    """The total memory in bytes of the machine, or of the container if that is less."""
    total = int(psutil.virtual_memory().total)
    for group in memory_groups():
        try:
            total = min(total, int(group.limit.read_text()))
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
