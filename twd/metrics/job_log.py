"""How the last jobs ended, in a file that outlives this process: one JSON line each, bounded."""

import os
from pathlib import Path
from typing import Final

from twd.private_file import write_private
from twd.wire.codec import decode
from twd.wire.job import JobFailed, JobFinished

FILE_NAME: Final = "jobs.jsonl"
SPARE: Final = 2
"""The file may grow to so many times what is kept before it is written anew."""

End = JobFinished | JobFailed


class JobLog:
    """Append-only; what cannot be read is moved aside, never lost and never in the way."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.file = folder / FILE_NAME
        self._keep = keep
        self._lines = 0
        self.ends: list[End] = []
        """What the file held when it was loaded, oldest first."""

    def load(self) -> str:
        """Read what is there; returns in words what was wrong with it, if anything was."""
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
        """Write more of them, in one go."""
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
        """Each time another file: what was put aside before stays as it is."""
        number = 1
        while (aside := self.file.with_name(f"{FILE_NAME}.bad-{number}")).exists():
            number += 1
        write_private(aside, b"".join(line + b"\n" for line in lines))
        return aside


def _end(line: bytes) -> End | None:
    event = decode(line)
    return event if isinstance(event, End) else None
