"""Probe of the disks that hold models and state: their total and free bytes."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from twd.wire.node import DiskFacts


def disk_facts(folders: Iterable[Path], speeds: Mapping[int, int] = {}) -> list[DiskFacts]:
    """Return each disk once, under the first folder that is on it. `speeds`: what was measured, by device number."""
    found: dict[int, DiskFacts] = {}
    for folder in folders:
        try:
            device = folder.stat().st_dev
            if device not in found:
                usage = psutil.disk_usage(str(folder))
                found[device] = DiskFacts(
                    path=str(folder), total=usage.total, free=usage.free, read_bytes_s=speeds.get(device, 0)
                )
        except OSError:  # a missing folder has no disk; the model scan reports it
            continue
    return list(found.values())
