"""Probe of the disks that hold models and state: their total and free bytes."""

from collections.abc import Iterable
from pathlib import Path

import psutil

from twd.wire.node import DiskFacts


def disk_facts(folders: Iterable[Path]) -> list[DiskFacts]:
    """Return each disk once, under the first folder that is on it."""
    found: dict[int, DiskFacts] = {}
    for folder in folders:
        try:
            device = folder.stat().st_dev
            if device not in found:
                usage = psutil.disk_usage(str(folder))
                found[device] = DiskFacts(path=str(folder), total=usage.total, free=usage.free)
        except OSError:  # a missing folder has no disk; the model scan reports it
            continue
    return list(found.values())
