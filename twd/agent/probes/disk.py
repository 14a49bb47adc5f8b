"""How much room the disks have that hold models and state."""

from collections.abc import Iterable
from pathlib import Path

import psutil

from twd.wire.node import DiskFacts


def disk_facts(folders: Iterable[Path]) -> list[DiskFacts]:
    """Each disk once, under the first folder that lies on it."""
    found: dict[int, DiskFacts] = {}
    for folder in folders:
        try:
            device = folder.stat().st_dev
            if device not in found:
                usage = psutil.disk_usage(str(folder))
                found[device] = DiskFacts(path=str(folder), total=usage.total, free=usage.free)
        except OSError:  # a folder that is not there has no disk; the scan of models names it
            continue
    return list(found.values())
