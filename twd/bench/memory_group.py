"""Memory cgroups (v1 or v2) for measurements: a small machine is played on a large one."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from twd.engine.host_memory.cgroups import ROOT
from twd.wire.failures import FailureCode, TwdError

_TRIES: Final = 100


@contextmanager
def memory_group(size: int) -> Iterator[Path]:
    """A cgroup with so many bytes of memory. Yields the file into which a process writes its id to enter it.

    It is removed at the end, when no process is in it any more. Raises TwdError where this user may not make cgroups.
    """
    first = (ROOT / "memory").is_dir()
    above = ROOT / "memory" if first else ROOT
    folder = above / f"twd-measured-{os.getpid()}-{time.monotonic_ns()}"
    try:
        if not first:
            with suppress(OSError):  # it is on already, or the next lines say why not
                (above / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(size))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        text = f"cannot make a memory cgroup in {above}: {error.strerror}; run this as root"
        raise TwdError(FailureCode.UNSUPPORTED, text) from None
    try:
        yield folder / "cgroup.procs"
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(_TRIES):
        try:
            folder.rmdir()
            return
        except OSError:  # its last process is not gone yet
            time.sleep(0.1)
