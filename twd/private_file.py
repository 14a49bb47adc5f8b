"""Files that only their owner can read, written whole or not at all."""

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    with _draft(path, data) as draft:
        draft.replace(path)


def create_private(path: Path, data: bytes) -> None:
    """Create a file in one step; when somebody else was faster, theirs stays."""
    with _draft(path, data) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)


def set_aside_if_unfit(path: Path, fits: Callable[[str], bool], instead: str, notes: list[str]) -> None:
    """Rename a file that others can read or that does not fit; `notes` gets what was wrong and what is done instead."""
    fault = _fault(path, fits)
    if fault:
        aside = path.with_name(f"{path.name}.{fault.replace(' ', '-')}.{time.time_ns()}")
        path.rename(aside)
        notes.append(f"{path} was {fault}: moved to {aside.name}, and {instead}")


def _fault(path: Path, fits: Callable[[str], bool]) -> str:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(facts.st_mode):
        return "no plain file"
    if os.name != "nt" and (facts.st_mode & 0o077 or facts.st_uid != os.getuid()):
        return "open to others"
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return "unreadable"
    return "" if fits(text) else "corrupt"


@contextlib.contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """The file under a name of its own, which nobody else writes to; gone in the end, whatever happens."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
