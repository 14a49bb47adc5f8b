"""How much memory this process may take, and a clear refusal before llama.cpp is asked for more."""

from pathlib import Path

import psutil

from twd.wire.failures import FailureCode, TwdError

_CGROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_bytes() -> int:
    """Free memory of the machine, or of the container where that is less."""
    free = int(psutil.virtual_memory().available)
    for limit, used in _CGROUP_LIMITS:
        try:
            free = min(free, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no such container limit, or the word "max"
            continue
    return max(free, 0)


def require_memory(needed: int, what: str) -> None:
    """Raise OUT_OF_MEMORY where `needed` bytes are more than there are."""
    free = available_bytes()
    if needed > free:
        raise TwdError(
            FailureCode.OUT_OF_MEMORY, f"{what} needs {gib(needed)} of memory, but only {gib(free)} are free"
        )


def gib(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
