"""One log file a process, bounded in size. The process writes by itself, so nothing stands between them."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 10 * 1024 * 1024
KEPT: Final = 3
LAST_WORDS_BYTES: Final = 4096


def _error_text(line: str) -> str:
    try:
        entry = json.loads(line)
        return str(entry["text"]) if entry["level"] in ("error", "critical") else ""
    except (ValueError, KeyError, TypeError):
        return ""


class LogFile:
    """The log of one process, over all its restarts."""

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / f"{name}.log"
        self._max_bytes = max_bytes
        self._run_began = 0

    def begin_run(self) -> int:
        """A new run of the process starts here; returns the size so far."""
        self.rotate_if_big()
        self._run_began = self.size
        return self._run_began

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def last_words(self) -> str:
        """The end of what this run wrote."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, 2)
                file.seek(max(min(self._run_began, end), end - LAST_WORDS_BYTES))
                return file.read().decode("utf-8", "replace").strip()[-LAST_WORDS_BYTES:]
        except FileNotFoundError:
            return ""

    def last_problem(self) -> str:
        """The last line of this run that tells of an error, else its last line."""
        lines = self.last_words().splitlines()
        told = [text for line in lines if (text := _error_text(line))]
        return (told or lines or [""])[-1][:500]

    def rotate_if_big(self) -> bool:
        """Copy a full log to `.1` and empty it; writers hold it open in append mode and just go on."""
        if self.size <= self._max_bytes:
            return False
        for number in range(KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        shutil.copyfile(self.path, self._numbered(1))
        with self.path.open("r+b") as file:
            file.truncate(0)
        self._run_began = 0
        return True

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
