"""SHA-256 of whole models: each file is read once for all who wait, one file at a time, and only while somebody
waits."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from twd.agent.model_scan import ModelScan


@dataclass
class _Reading:
    end: asyncio.Future[str]
    left: threading.Event
    waiting: int = 0


class FileDigests:
    """Reads files in a thread of its own; the scan remembers the digests."""

    def __init__(self, scan: ModelScan) -> None:
        self._scan = scan
        self._readings: dict[Path, _Reading] = {}
        self._thread = ThreadPoolExecutor(1, "digest")

    async def of(self, name: str) -> str:
        """Return the digest of a listed model; that of its first file, where it has several."""
        path = self._scan.find(name)
        reading = self._readings.get(path) or self._read(path)
        reading.waiting += 1
        try:
            return await asyncio.shield(reading.end)
        finally:
            reading.waiting -= 1
            if not reading.waiting:
                reading.left.set()
                del self._readings[path]

    def _read(self, path: Path) -> _Reading:
        left = threading.Event()
        end = asyncio.get_running_loop().run_in_executor(self._thread, self._scan.full_digest, path, left.is_set)
        self._readings[path] = reading = _Reading(end, left)
        return reading
