"""The last lines of one process's log."""

import re
from collections import deque
from pathlib import Path
from typing import Final

from twd.wire.failures import FailureCode, TwdError

LINES_MAX: Final = 1000
TAIL_BYTES: Final = 4 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")


def log_names(folder: Path) -> list[str]:
    """The processes that have a log."""
    return sorted(path.stem for path in folder.glob("*.log"))


def log_path(folder: Path, name: str) -> Path:
    """Return the path of a process's log; raises where the name is not valid, or has no log."""
    path = folder / f"{name}.log"
    if _NAME.fullmatch(name) is None or not path.is_file():
        known = ", ".join(log_names(folder)) or "none"
        raise TwdError(FailureCode.BAD_REQUEST, f"there is no log of {name[:100]!r}; there are: {known}", "service")
    return path


def tail(path: Path, count: int) -> list[str]:
    """Return the last lines, at most `count`, out of the last TAIL_BYTES of the file."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    return list(deque(text.splitlines(), maxlen=count))
