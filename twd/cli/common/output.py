"""The file that a command was told to write."""

import os
from pathlib import Path

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode


def check_output(path: Path, *sources: Path) -> None:
    """Refuse a file that cannot be written, or that is one of the sources, before any work is done."""
    if fault := _fault(path, sources):
        raise CommandError(ExitCode.USAGE, f"{fault}; name another file")


def _fault(path: Path, sources: tuple[Path, ...]) -> str:
    if path.is_dir():
        return f"{path} is a folder"
    if not path.parent.is_dir():
        return f"{path} cannot be written: there is no folder {path.parent}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"{path} cannot be written: this user may not"
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        return f"{path} is what is to be read"
    return ""
