"""Makes the folder of one version: an environment with everything that the packages say. It needs no package itself."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from twd.setup.engine import recipe
from twd.setup.versions.folder import COMPLETE, VersionProblem, VersionsFolder, order

INSTALL_S: Final = 3600.0
WHEEL: Final = re.compile(r"twd-([^-]+)-py3-none-any\.whl")
CHECKED_S: Final = 60.0

Say = Callable[[str], None]


def newest_wheel(wheels: Path) -> tuple[str, Path]:
    """Return the newest version of twd in a folder of packages, and its file."""
    found = {match[1]: file for file in wheels.glob("twd-*.whl") if (match := WHEEL.fullmatch(file.name))}
    if not found:
        raise VersionProblem(f"{wheels} holds no twd-VERSION-py3-none-any.whl; `make packages` in a checkout makes it")
    newest = max(found, key=order)
    return newest, found[newest]


def checkout_version(checkout: Path) -> str:
    """Return the version of a checkout."""
    found = re.search(r'__version__ = "([^"]+)"', (checkout / "twd" / "__init__.py").read_text("utf-8"))
    if found is None:
        raise VersionProblem(f"{checkout} is no checkout of twd")
    return found[1]


def make_version(
    folder: VersionsFolder, version: str, source: Path, backend: str, say: Say, python: str = sys.executable
) -> None:
    """Make a version from a folder of packages, without a network, or from a checkout. One that is there stays."""
    if folder.is_complete(version):
        return
    folder.remove_rest(version)
    target = folder.folder_of(version)
    say(f"making {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(target, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError as error:
        raise VersionProblem(f"{python} makes no environments with pip; on Debian install python3-venv") from error
    pip = [
        str(folder.program(version).with_name("python")),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-q",
    ]
    if (source / "pyproject.toml").is_file():
        _from_checkout(pip, source, target, backend, say)
    else:
        _run([*pip, "--no-index", "--find-links", str(source), f"twd=={version}"], f"installing twd {version}")
    check_version(folder, version)
    (target / COMPLETE).write_text(f"{version}\n")


def _from_checkout(pip: Sequence[str], checkout: Path, target: Path, backend: str, say: Say) -> None:
    features = recipe.processor_features()
    problem = recipe.obstacle(backend, features)
    if problem:
        raise VersionProblem(problem)
    own = list(recipe.cmake_of(backend, os.uname().machine if hasattr(os, "uname") else "AMD64"))
    cmake = ";".join(recipe.llama_cmake(features, recipe.place_kernels(), own))
    say("installing what requirements/ names; compiling llama.cpp takes minutes, once")
    locked = ["--require-hashes", "-r", str(checkout / "requirements" / "base.txt")]
    _run([*pip, *locked], "installing packages", {"CMAKE_ARGS": cmake})
    _run([*pip, "--no-deps", str(checkout)], "installing twd")
    (target / "twd-llama").write_text(cmake)
    (target / "twd-cmake-args").write_text(" ".join(own))


def check_version(folder: VersionsFolder, version: str) -> None:
    """Raise VersionProblem where a version's program does not start."""
    program = folder.program(version)
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=CHECKED_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VersionProblem(f"version {version} does not start: {error}") from None
    if done.returncode or version not in done.stdout:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise VersionProblem(f"version {version} does not start: {words[-1][:300]}")


def _run(argv: Sequence[str], doing: str, more: "dict[str, str] | None" = None) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        code = subprocess.run(
            argv, env={**environment, **(more or {})}, stdin=subprocess.DEVNULL, timeout=INSTALL_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        raise VersionProblem(f"{doing} was not done within {INSTALL_S:g} s") from None
    if code:
        raise VersionProblem(f"{doing} failed (exit code {code}); the lines above say why. The old version stays")
