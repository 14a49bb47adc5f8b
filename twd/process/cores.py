"""How many cores there are for this process to compute on."""

import os

import psutil


def usable_cores() -> int:
    """Physical cores that this process may run on: a second thread on a core only gets in the way."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
