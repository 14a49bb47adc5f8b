"""The sign of life of a process: a counter in shared memory that its event loop raises and its supervisor reads.

On Linux the counter lies in memory that has no name in any folder, so a full disk cannot stop it; elsewhere in a
temporary file.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator, MutableMapping
from functools import partial
from typing import Final

from twd.kit.tasks import TaskGroup, every

VARIABLE: Final = "TWD_HEARTBEAT"
"""Tells a child where its counter is."""
BEAT_S: Final = 0.5
SIZE: Final = 8
_log = logging.getLogger("twd.heartbeat")


class Beats:
    """The counter of one child, as its supervisor sees it."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._descriptor, self._name = os.memfd_create("twd-heartbeat"), ""
        else:
            self._descriptor, self._name = tempfile.mkstemp(prefix="twd-heartbeat-")
        os.write(self._descriptor, bytes(SIZE))

    @property
    def path(self) -> str:
        """Where the child finds it."""
        return self._name or f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def read(self) -> int:
        """How often the child has said that it lives."""
        return int.from_bytes(os.pread(self._descriptor, SIZE, 0), "little")

    def close(self) -> None:
        """Nobody reads it any more."""
        os.close(self._descriptor)
        if self._name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name)


class Heartbeat:
    """The same counter, as the child sees it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._count = 0

    @classmethod
    def inherited(cls, environment: MutableMapping[str, str] = os.environ) -> "Heartbeat | None":
        """The counter that the supervisor made for this process; None where nobody reads one."""
        path = environment.pop(VARIABLE, "")
        if not path:
            return None
        try:
            return cls(os.open(path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)))
        except OSError as error:
            _log.warning("this process cannot show that it lives: %s", error)
            return None

    def beat(self) -> None:
        """Say that this process lives."""
        self._count += 1
        os.pwrite(self._descriptor, self._count.to_bytes(SIZE, "little"), 0)

    def close(self) -> None:
        """Say nothing more."""
        os.close(self._descriptor)


@contextlib.asynccontextmanager
async def beating(heart: Heartbeat | None) -> AsyncIterator[None]:
    """Show that the event loop turns for as long as the body runs."""
    if heart is None:
        yield
        return
    tasks = TaskGroup("heartbeat", _failed)
    heart.beat()
    tasks.keep("beat", partial(every, BEAT_S, partial(_beat, heart)))
    try:
        yield
    finally:
        await tasks.close()
        heart.close()


async def _beat(heart: Heartbeat) -> None:
    heart.beat()


def _failed(name: str, error: BaseException) -> None:
    _log.warning("the heartbeat failed: %r", error)
