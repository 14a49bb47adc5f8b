"""The heartbeat of a process: a counter in shared memory that its event loop raises and its supervisor reads.

On Linux the counter is in anonymous memory, so a full disk does not stop it; elsewhere in a temporary file.
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
"""The environment variable with the path of the counter."""
BEAT_S: Final = 0.5
SIZE: Final = 8
_log = logging.getLogger("twd.heartbeat")


class Beats:
    """The supervisor's side of the counter of one child."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._descriptor, self._name = os.memfd_create("twd-heartbeat"), ""
        else:
            self._descriptor, self._name = tempfile.mkstemp(prefix="twd-heartbeat-")
        os.write(self._descriptor, bytes(SIZE))

    @property
    def path(self) -> str:
        """The path at which the child opens the counter."""
        return self._name or f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def read(self) -> int:
        """Return how often the child has beaten."""
        return int.from_bytes(os.pread(self._descriptor, SIZE, 0), "little")

    def close(self) -> None:
        """Close the counter."""
        os.close(self._descriptor)
        if self._name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name)


class Heartbeat:
    """The child's side of the counter."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._count = 0

    @classmethod
    def inherited(cls, environment: MutableMapping[str, str] = os.environ) -> "Heartbeat | None":
        """Return the counter that the supervisor made for this process; None if there is none."""
        path = environment.pop(VARIABLE, "")
        if not path:
            return None
        try:
            return cls(os.open(path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)))
        except OSError as error:
            _log.warning("this process cannot show that it lives: %s", error)
            return None

    def beat(self) -> None:
        """Raise the counter by one."""
        self._count += 1
        os.pwrite(self._descriptor, self._count.to_bytes(SIZE, "little"), 0)

    def close(self) -> None:
        """Close the counter; no more beats."""
        os.close(self._descriptor)


@contextlib.asynccontextmanager
async def beating(heart: Heartbeat | None) -> AsyncIterator[None]:
    """Raise the counter regularly on the event loop while the body runs."""
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
