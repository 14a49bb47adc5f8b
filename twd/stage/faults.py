"""Counts invalid frames and other faults of links, and reports the first, second, fourth, eighth ... of each kind."""

import threading
from collections.abc import Callable
from typing import Final

from twd.ring.frames import FrameError
from twd.wire.failures import TwdError
from twd.wire.ring import FrameFault

Tell = Callable[[FrameFault, str, str, int], None]
_NO_FAULT: Final = frozenset({FrameFault.SILENT, FrameFault.CUT})
"""Links that ended or fell silent: reported, but nobody did anything wrong."""


class FrameFaults:
    """Counts faults, from any thread; `tell` gets the fault, the peer, what was wrong and how often that fault was
    seen."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self.counts: dict[FrameFault, int] = {}

    def note(self, fault: FrameFault, peer: str, detail: str) -> None:
        """Count a fault; report it only if its count is a power of two, so that many faults cause few events."""
        with self._lock:
            count = self.counts[fault] = self.counts.get(fault, 0) + 1
        if count & (count - 1) == 0:
            self._tell(fault, peer[:256], detail[:1024], count)

    def note_error(self, error: TwdError, peer: str) -> None:
        """Count an error if it is a FrameError."""
        if isinstance(error, FrameError):
            self.note(error.fault, peer, str(error))

    @property
    def total(self) -> int:
        """Number of faults of all kinds, except connections that ended."""
        with self._lock:
            return sum(count for fault, count in self.counts.items() if fault not in _NO_FAULT)
