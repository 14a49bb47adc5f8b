"""One change of versions at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from twd.process import platform
from twd.setup.versions.folder import VersionProblem, VersionsFolder

LOCK: Final = ".upgrade.lock"
LOOK_S: Final = 0.2


@contextmanager
def alone(folder: VersionsFolder, patience_s: float = 0.0) -> Iterator[None]:
    """Change versions while nobody else does; raises VersionProblem where somebody else still does."""
    descriptor = os.open(folder.prefix / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not platform.lock_within(descriptor, patience_s, LOOK_S):
            raise VersionProblem(f"another command changes the versions in {folder.prefix} now; try again later")
        yield
    finally:
        os.close(descriptor)
