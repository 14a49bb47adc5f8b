"""Files that only their owner can read, written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    with _draft(path, data) as draft:
        draft.replace(path)


def create_private(path: Path, data: bytes) -> None:
    """Create a file in one step; when somebody else was faster, theirs stays."""
    with _draft(path, data) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)


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
