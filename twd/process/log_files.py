"""One log file for each process, of limited size. The process itself writes to it."""

import contextlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 10 * 1024 * 1024
KEPT: Final = 3
LAST_WORDS_BYTES: Final = 4096
CRASH_BYTES: Final = 65536
"""How far to look back for a crash: its message comes before the stacks of all threads."""
CRASH: Final = "Fatal Python error: "
PROBLEM: Final = "twd: "
"""The start of the line with which a failed command says why; lines with advice may follow."""
_FRAME: Final = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>\S+)')
_log = logging.getLogger("twd.process.log_files")


def _error_text(line: str) -> str:
    try:
        entry = json.loads(line)
        return str(entry["text"]) if entry["level"] in ("error", "critical") else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _crash_text(lines: list[str]) -> str:
    """Return the kind and place of a crash of the Python interpreter; empty if there was none."""
    kind, place = "", ""
    for line in lines:
        if line.startswith(CRASH):
            kind, place = line.removeprefix(CRASH), ""
        elif kind and not place and (frame := _FRAME.match(line)):
            place = f" in {frame['name']}, {Path(frame['file']).name} line {frame['line']}"
    return kind + place


class LogFile:
    """The log file of one process, for all its runs."""

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / f"{name}.log"
        self._max_bytes = max_bytes
        self._run_began = 0
        self._problem = ""

    def begin_run(self) -> int:
        """Note that a new run begins here; returns the size in bytes so far."""
        self.rotate_if_big()
        self._run_began = self.size
        return self._run_began

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def add(self, line: str) -> None:
        """Append a line; ignored if the disk does not take it."""
        with contextlib.suppress(OSError), self.path.open("a") as file:
            file.write(f"{line}\n")

    def last_words(self) -> str:
        """Return the end of the text that this run wrote."""
        return self._end_of_run(LAST_WORDS_BYTES)

    def _end_of_run(self, most: int) -> str:
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, 2)
                file.seek(max(min(self._run_began, end), end - most))
                return file.read().decode("utf-8", "replace").strip()[-most:]
        except OSError:
            return ""

    def last_problem(self) -> str:
        """Return the most important line of this run: its crash, else its last error, else its last line.

        An error is a log entry of level error, or the message of a command that failed.
        """
        if crash := _crash_text(self._end_of_run(CRASH_BYTES).splitlines()):
            return crash[:500]
        lines = self.last_words().splitlines()
        logged = [text for line in lines if (text := _error_text(line))]
        printed = [line.removeprefix(PROBLEM) for line in lines if line.startswith(PROBLEM)]
        return (logged or printed or lines or [""])[-1][:500]

    def rotate_if_big(self) -> bool:
        """Copy a full log to `.1` and empty it; returns whether it did. Writers keep it open in append mode.

        If it cannot be copied, as on a full disk, it stays as it is until the next try.
        """
        if self.size <= self._max_bytes:
            return False
        try:
            self._rotate()
        except OSError as error:
            self._complain(f"{self.path} cannot be put aside: {error.strerror}; make room there")
            return False
        self._complain("")
        self._run_began = 0
        return True

    def _rotate(self) -> None:
        for number in range(KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        try:
            shutil.copyfile(self.path, self._numbered(1))
        except OSError:
            self._numbered(1).unlink(missing_ok=True)  # an incomplete copy only takes disk space
            raise
        with self.path.open("r+b") as file:
            file.truncate(0)

    def _complain(self, problem: str) -> None:
        """Log a problem once, not at each try."""
        if problem and problem != self._problem:
            _log.warning("%s", problem)
        self._problem = problem

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
