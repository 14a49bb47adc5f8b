"""How this program is called from the shell that it was started in."""

import shutil
import sys
from pathlib import Path

_PROGRAM = Path(sys.executable).with_name("twd")


def own_command(program: Path = _PROGRAM, here: Path | None = None) -> str:
    """`twd` where the shell finds this very program by that name, and else its path, from here if it lies below."""
    found = shutil.which("twd")
    if not program.exists() or (found is not None and Path(found).resolve() == program.resolve()):
        return "twd"
    folder = here or Path.cwd()
    return str(program.relative_to(folder) if program.is_relative_to(folder) else program)
