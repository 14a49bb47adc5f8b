"""Remembers which processes were killed because they were hung."""

import time
from typing import Final

FACT: Final = "hung"
"""The name of this fact in the lease of the process that killed them."""
KEPT: Final = 8


class HungLog:
    """The latest hang of each process, and how often it hung."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, int, str]] = {}

    def note(self, process: str, why: str, at_ms: int) -> None:
        """Note that a process was killed; `why` is empty if it was not hung."""
        if not why:
            return
        times = self._told.pop(process, (0, 0, ""))[0] + 1
        self._told[process] = times, at_ms, why
        for name in list(self._told)[:-KEPT]:
            del self._told[name]

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """Return the facts for the lease; empty if nothing was hung."""
        return {FACT: [_line(name, *told) for name, told in self._told.items()]} if self._told else {}


def _line(process: str, times: int, at_ms: int, why: str) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
    often = f"{times} times, the last one " if times > 1 else ""
    return f"{process}: {why} ({often}at {at}); it was ended and started again"
