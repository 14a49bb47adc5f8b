"""Frames that could not be sent yet: limited in bytes; the oldest are dropped first, and counted."""

import asyncio
from collections import deque

from twd.bus.base import BusStats


class Outbox:
    """Frames that wait for the connection to come back or to have room."""

    def __init__(self, stats: BusStats, limit_bytes: int) -> None:
        self.filled = asyncio.Event()
        self.empty = asyncio.Event()
        self.empty.set()
        self._stats = stats
        self._limit = limit_bytes
        self._frames: deque[tuple[str, bytes]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, subject: str, frame: bytes) -> None:
        """Keep a frame; older frames are dropped if there is no room."""
        self._frames.append((subject, frame))
        self._bytes += len(frame)
        while self._bytes > self._limit:
            self._drop_first()
        self._tell()

    def pop(self) -> bytes:
        """Remove and return the oldest frame."""
        return self._pop()[1]

    def drop_all(self) -> None:
        """Drop all frames, and count them."""
        while self._frames:
            self._drop_first()
        self._tell()

    def _pop(self) -> tuple[str, bytes]:
        subject, frame = self._frames.popleft()
        self._bytes -= len(frame)
        if not self._frames:
            self._tell()
        return subject, frame

    def _drop_first(self) -> None:
        kind = subject_kind(self._pop()[0])
        self._stats.dropped += 1
        self._stats.dropped_by_subject[kind] = self._stats.dropped_by_subject.get(kind, 0) + 1

    def _tell(self) -> None:
        if self._frames:
            self.filled.set()
            self.empty.clear()
        else:
            self.filled.clear()
            self.empty.set()


def subject_kind(subject: str) -> str:
    """Return the part of a subject under which drops are counted: without the name of a job or inbox."""
    return ".".join(subject.split(".")[: 4 if subject.startswith("twd.") else 1])
