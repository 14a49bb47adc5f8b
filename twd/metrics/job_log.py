"""A file with the ends of the latest jobs, which is kept across restarts: one JSON line each, limited in size."""

import os
from pathlib import Path
from typing import Final

from twd.private_file import write_private
from twd.wire.codec import decode
from twd.wire.job import JobFailed, JobFinished

FILE_NAME: Final = "jobs.jsonl"
SPARE: Final = 2
"""The file may grow to this many times what is kept before it is rewritten."""

End = JobFinished | JobFailed


class JobLog:
    """An append-only file. Lines that cannot be read are moved to another file, not deleted."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.file = folder / FILE_NAME
        self._keep = keep
        self._lines = 0
        self.ends: list[End] = []
        """The entries of the file when it was loaded, oldest first."""

    def load(self) -> str:
        """Read the file; returns a text about what was wrong with it, or an empty text."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [(line, _end(line)) for line in self._read()]
        bad = [line for line, end in lines if end is None]
        good = [(line, end) for line, end in lines if end is not None]
        kept = good[-self._keep :] if self._keep else []
        self.ends = [end for _, end in kept]
        self._lines = len(kept)
        aside = self._set_aside(bad) if bad else None
        if len(kept) < len(lines):
            self._write([line for line, _ in kept])
        return f"{len(bad)} lines of {self.file} made no sense; moved to {aside.name}" if aside else ""

    def append(self, *lines: bytes) -> None:
        """Write several entries at once."""
        if not self._keep or not lines:
            return
        lines = lines[-self._keep :]
        if self._lines + len(lines) > SPARE * self._keep:
            left = max(0, self._keep - len(lines))
            self._write(self._read()[-left:] if left else [])
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, b"".join([line + b"\n" for line in lines]))
        finally:
            os.close(descriptor)
        self._lines += len(lines)

    def _read(self) -> list[bytes]:
        try:
            return [line for line in self.file.read_bytes().split(b"\n") if line.strip()]
        except FileNotFoundError:
            return []

    def _write(self, lines: list[bytes]) -> None:
        write_private(self.file, b"".join(line + b"\n" for line in lines))
        self._lines = len(lines)

    def _set_aside(self, lines: list[bytes]) -> Path:
        """Write bad lines to a new file; earlier files of this kind stay as they are."""
        number = 1
        while (aside := self.file.with_name(f"{FILE_NAME}.bad-{number}")).exists():
            number += 1
        write_private(aside, b"".join(line + b"\n" for line in lines))
        return aside


def _end(line: bytes) -> End | None:
    event = decode(line)
    return event if isinstance(event, End) else None
