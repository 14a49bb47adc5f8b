"""The number of cores that this process may compute on."""

import os

import psutil


def usable_cores() -> int:
    """Return the number of physical cores that this process may use: a second thread on a core does not help."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
