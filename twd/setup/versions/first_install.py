"""`contrib/install.sh`: installs twd beside what is there, or removes it. It needs no package.

It runs from a checkout, or out of the file of a package, which Python can read as it is.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.setup.engine.recipe import BACKENDS
from twd.setup.versions.folder import VersionProblem, VersionsFolder
from twd.setup.versions.lock import LOCK, alone
from twd.setup.versions.make import checkout_version, make_version, newest_wheel

NOT_INSTALLED: Final = 4
ASK_S: Final = 60.0


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"install: {text}\n")
    sys.stdout.flush()


def defaults() -> tuple[Path, Path]:
    """Return the usual folder of an installation, and that of programs: of the machine for root, else of this user."""
    if getattr(os, "geteuid", lambda: 1)() == 0:
        return Path("/opt/twd"), Path("/usr/local/bin")
    return Path.home() / ".local" / "share" / "twd", Path.home() / ".local" / "bin"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    prefix, programs = defaults()
    parser = argparse.ArgumentParser("install.sh", description="Install twd, each version in a folder of its own.")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="Packages of twd and all that it needs; no network.")
    parser.add_argument("--prefix", type=Path, default=prefix, help="Where versions lie (%(default)s).")
    parser.add_argument("--bin", type=Path, default=programs, help="Where the link `twd` goes (%(default)s).")
    parser.add_argument("--backend", choices=list(BACKENDS), default="native", help="How llama.cpp is built.")
    parser.add_argument("--uninstall", action="store_true", help="Remove it. Models, keys and settings stay.")
    return parser.parse_args(given)


def install(chosen: argparse.Namespace, checkout: Path) -> None:
    """Make the version and take it; what is there already stays."""
    folder = VersionsFolder(chosen.prefix.absolute())
    if chosen.wheels:
        version, source = newest_wheel(chosen.wheels)[0], chosen.wheels.absolute()
    else:
        version, source = checkout_version(checkout), checkout
    folder.prefix.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        make_version(folder, version, source, chosen.backend, say)
        if not folder.in_use():
            folder.take(version)
    if folder.in_use() != version:
        say(f"{folder.in_use()} is in use; `twd upgrade` takes {version}, and goes back if it does not work")
    link = chosen.bin / "twd"
    target = folder.program()
    if os.path.lexists(link) and not (link.is_symlink() and os.readlink(link) == str(target)):
        raise VersionProblem(f"{link} belongs to something else and stays; {target} is the program, or give --bin")
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target)
    say(f"twd {folder.in_use()} is installed: {link}")
    if str(chosen.bin) not in os.environ.get("PATH", "").split(os.pathsep):
        say(f"{chosen.bin} is not in your PATH; add it, or call {link}")


def uninstall(chosen: argparse.Namespace) -> None:
    """Remove the versions and the link, and nothing else."""
    import shutil

    folder = VersionsFolder(chosen.prefix.absolute())
    if not folder.versions.is_dir():
        return say(f"there is nothing in {folder.prefix}")
    if folder.program().exists() and _service_there(folder.program()):
        raise VersionProblem("a service of the system runs this program: `twd service uninstall` first")
    link = chosen.bin / "twd"
    if link.is_symlink() and os.readlink(link) == str(folder.program()):
        link.unlink()
    for one in (folder.current, folder.previous, folder.prefix / LOCK):
        one.unlink(missing_ok=True)
    shutil.rmtree(folder.versions)
    if folder.prefix.is_dir() and not any(folder.prefix.iterdir()):
        folder.prefix.rmdir()
    return say(f"removed from {folder.prefix}; models, keys and settings stay in ~/.twd and /var/lib/twd")


def _service_there(program: Path) -> bool:
    try:
        command = [str(program), "service", "status"]
        return subprocess.run(command, capture_output=True, timeout=ASK_S, check=False).returncode not in (
            NOT_INSTALLED,
            126,
            127,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def main(given: Sequence[str] | None = None) -> int:
    """Install or remove; returns the exit code."""
    chosen = arguments(given)
    try:
        if chosen.uninstall:
            uninstall(chosen)
        else:
            install(chosen, Path(__file__).resolve().parents[3])
    except (VersionProblem, OSError) as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
