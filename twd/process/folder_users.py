"""Which processes run from below a folder: by their programs, their libraries, their words and where they are."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from twd.process.platform import IS_LINUX

LINKS: Final = ("exe", "cwd")
FILES: Final = ("cmdline", "maps")
"""What Linux tells of a process under /proc; `maps` names the libraries that it has loaded."""


def users_below(roots: Sequence[Path]) -> dict[Path, int]:
    """Return the folders right below one of `roots` that a process runs from, each with the id of one such process.

    Without the rights of root, other users' processes are known by their command lines alone.
    """
    patterns = [(root, _pattern(root)) for root in roots]
    found: dict[Path, int] = {}
    for pid in psutil.pids():
        told = _told_by_linux(pid) if IS_LINUX else _told_by_psutil(pid)
        for root, pattern in patterns:
            for name in pattern.findall(told):
                found.setdefault(root / os.fsdecode(name), pid)
    return found


def _pattern(root: Path) -> re.Pattern[bytes]:
    """Match a path below this folder, as it was named or as the system names it; the group is the folder below it."""
    names = {os.path.abspath(root), os.path.realpath(root)}
    either = b"|".join(re.escape(os.fsencode(os.path.join(name, ""))) for name in sorted(names))
    return re.compile(b"(?:" + either + rb")([^/\\\0\n]+)")


def _told_by_linux(pid: int) -> bytes:
    told: list[bytes] = []
    for name in LINKS:
        with suppress(OSError):
            told.append(os.fsencode(os.readlink(f"/proc/{pid}/{name}")))
    for name in FILES:
        with suppress(OSError):
            told.append(Path(f"/proc/{pid}/{name}").read_bytes())
    return b"\0".join(told)


def _told_by_psutil(pid: int) -> bytes:
    told: list[str] = []
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for ask in (process.cmdline, lambda: [process.exe()], lambda: [process.cwd()]):
            with suppress(psutil.Error, OSError):
                told += ask()
        with suppress(psutil.Error, OSError):
            told += [one.path for one in process.open_files()]
    return b"\0".join(os.fsencode(one) for one in told)
