"""Which processes were ended because they were hung: for those who look later."""

import time
from typing import Final

FACT: Final = "hung"
"""Under this name it stands in the lease of whoever ended them."""
KEPT: Final = 8


class HungLog:
    """The latest hang of each process, and how often it hung."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, int, str]] = {}

    def note(self, process: str, why: str, at_ms: int) -> None:
        """A process was ended; `why` is empty where it was not hung."""
        if not why:
            return
        times = self._told.pop(process, (0, 0, ""))[0] + 1
        self._told[process] = times, at_ms, why
        for name in list(self._told)[:-KEPT]:
            del self._told[name]

    def facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """What stands in a lease; nothing while nothing was hung."""
        return {FACT: [_line(name, *told) for name, told in self._told.items()]} if self._told else {}


def _line(process: str, times: int, at_ms: int, why: str) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
    often = f"{times} times, the last one " if times > 1 else ""
    return f"{process}: {why} ({often}at {at}); it was ended and started again"
