"""The command that calls this program from the shell in which it was started."""

import shutil
import sys
from pathlib import Path

_PROGRAM = Path(sys.executable).with_name("twd")


def own_command(program: Path = _PROGRAM, here: Path | None = None) -> str:
    """Return `twd` if the shell finds this program by that name; else its path, relative if below the current
    folder."""
    found = shutil.which("twd")
    if not program.exists() or (found is not None and Path(found).resolve() == program.resolve()):
        return "twd"
    folder = here or Path.cwd()
    return str(program.relative_to(folder) if program.is_relative_to(folder) else program)
