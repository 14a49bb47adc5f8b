"""Paths as people write them."""

import os
from pathlib import Path


def path_of(written: str | Path) -> Path:
    """Where a path leads, whose `~` is a home; a user that nobody knows makes a path that is not there, no error."""
    return Path(os.path.expanduser(written))
