"""Remembers which processes were killed because they were hung."""

import time
from typing import Final

from twd.wire.leases.machine import HungProcess

KEPT: Final = 8


class HungLog:
    """The latest hang of each process, and how often it hung."""

    def __init__(self) -> None:
        self._told: dict[str, HungProcess] = {}

    def note(self, process: str, why: str, at_ms: int) -> None:
        """Note that a process was killed; `why` is empty if it was not hung."""
        if not why:
            return
        before = self._told.pop(process, None)
        times = before.times + 1 if before is not None else 1
        self._told[process] = HungProcess(process=process, why=why, times=times, at_ms=at_ms)
        for name in list(self._told)[:-KEPT]:
            del self._told[name]

    @property
    def known(self) -> list[HungProcess]:
        """The latest hangs, for the lease."""
        return list(self._told.values())


def hung_words(hung: HungProcess) -> str:
    """Say how often a process hung, when, and why it was ended."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(hung.at_ms / 1000))
    often = f"{hung.times} times, the last one " if hung.times > 1 else ""
    return f"{hung.process}: {hung.why} ({often}at {at}); it was ended and started again"
