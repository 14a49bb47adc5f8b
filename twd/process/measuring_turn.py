"""Engines on one computer measure one after the other, and not while another one loads its weights.

What is measured while others compute is too slow, and would be kept on disk for all later starts. A lock on one file in
the folder of the core registry is shared by those who load, and exclusive for who measures.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from twd.process import platform
from twd.process.core_registry import private_folder

WAIT_S: Final = 10.0
"""The longest wait for others; large models load for minutes."""
_PAUSE_S: Final = 0.02
_log = logging.getLogger("twd.process.cores")


class MeasuringTurns:
    """The turns of all engines of one user on this computer."""

    def __init__(
        self,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._pause = pause

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Load weights inside: nobody begins to measure meanwhile, and whoever measures is awaited."""
        with self._locked(shared=True):
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[bool]:
        """Measure inside. Yields whether nobody else loads or measures; False: the wait was too long."""
        with self._locked(shared=False) as alone:
            yield alone

    @contextlib.contextmanager
    def _locked(self, *, shared: bool) -> Iterator[bool]:
        try:
            held = os.open(
                private_folder(self._folder) / "measuring.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            _log.info("other engines may compute during measurements: %s", error)
            yield True
            return
        try:
            yield platform.lock_within(held, WAIT_S, _PAUSE_S, shared=shared, clock=self._clock, pause=self._pause)
        finally:
            os.close(held)
