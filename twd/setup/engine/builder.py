"""Builds the engine and puts it in the place of the one that is there; a build that does not work is taken back."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.engine import recipe

PACKAGE: Final = "llama-cpp-python"
MODULE: Final = "llama_cpp"
BUILT: Final = "twd-llama"
"""The file that says how the engine was built; `make setup` reads it, too."""
OWN: Final = "twd-cmake-args"
BUILD_S: Final = 3600.0
CHECK_S: Final = 60.0
CHECK: Final = """
import json
from twd.engine.build import lacks_kernels
from twd.engine.library import devices, supports_rpc
found = devices()
print(json.dumps({"rpc": supports_rpc(), "cards": sum(d.is_gpu for d in found), "kernels": not lacks_kernels()}))
"""

Run = Callable[[Sequence[str], Mapping[str, str]], int]


def run_loudly(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program whose output the user sees; returns its exit code."""
    try:
        return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, timeout=BUILD_S, check=False).returncode
    except subprocess.TimeoutExpired:
        raise CommandError(ExitCode.CANNOT_START, f"{argv[0]} was not done within {BUILD_S:g} s") from None


@dataclass(frozen=True)
class EngineBuilder:
    """Builds for one Python environment: that of this program."""

    version: str
    """Of llama-cpp-python, which brings llama.cpp."""
    run: Run = run_loudly
    prefix: Path = field(default_factory=lambda: Path(sys.prefix))
    packages: Path = field(default_factory=lambda: Path(sysconfig.get_path("platlib")))
    python: str = sys.executable

    def install(self, backend: str, source: Path | None) -> dict[str, Any]:
        """Build it, or take it from a folder of packages, and put it in place; returns what it can do."""
        ready = _ready_wheel(source, self.version) if source else None
        own = list(recipe.cmake_of(backend, os.uname().machine if hasattr(os, "uname") else "AMD64"))
        cmake = recipe.llama_cmake(recipe.processor_features(), recipe.place_kernels(), own)
        with tempfile.TemporaryDirectory(prefix="twd-engine-") as folder:
            wheel = ready or self._build(cmake, source, Path(folder))
            with self._old_one_kept():
                self._put_in_place(wheel)
                found = self._check(backend)
        (self.prefix / BUILT).write_text("" if ready else ";".join(cmake))
        (self.prefix / OWN).write_text(" ".join(own))
        return found

    def _build(self, cmake: Sequence[str], source: Path | None, folder: Path) -> Path:
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(recipe.build_versions()) + "\n")
        environment = {**os.environ, "CMAKE_ARGS": ";".join(cmake), "PIP_CONSTRAINT": str(constraints)}
        offline = ("--no-index", "--find-links", str(source)) if source else ()
        build = (*self._pip("wheel"), "--no-deps", "--no-binary", PACKAGE, "--wheel-dir", str(folder), *offline)
        if self.run((*build, f"{PACKAGE}=={self.version}"), environment):
            raise CommandError(
                ExitCode.CANNOT_START, "llama.cpp cannot be built; the lines above say why. Nothing changed"
            )
        made = _ready_wheel(folder, self.version)
        if made is None:
            raise CommandError(ExitCode.FAULT, f"the build ended well and left no package in {folder}")
        return made

    def _pip(self, command: str) -> tuple[str, ...]:
        return (self.python, "-m", "pip", "--disable-pip-version-check", command)

    def _put_in_place(self, wheel: Path) -> None:
        install = (*self._pip("install"), "--quiet", "--no-deps", "--no-index", str(wheel))
        if self.run(install, dict(os.environ)):
            raise CommandError(ExitCode.CANNOT_START, f"{wheel.name} cannot be installed; the old engine is back")

    def _check(self, backend: str) -> dict[str, Any]:
        """Ask the new engine in a process of its own, as one for another processor would crash this one."""
        found = ask_engine(self.python)
        if "problem" in found:
            text = f"the new engine does not work here ({found['problem']}); the old one is back"
            raise CommandError(ExitCode.CANNOT_START, text)
        if backend in recipe.CARDS.values() and not found["cards"]:
            found["note"] = f"it was built for {backend}, and finds no card: `twd doctor` tells what is missing"
        return found

    @contextmanager
    def _old_one_kept(self) -> Iterator[None]:
        """Put the old engine aside; it comes back if anything fails."""
        parts = [self.packages / MODULE, *self.packages.glob(f"{MODULE}_python-*.dist-info")]
        parts = [part for part in parts if part.exists()]
        with tempfile.TemporaryDirectory(prefix=".twd-old-engine-", dir=self.packages) as aside:
            for part in parts:
                part.rename(Path(aside) / part.name)
            try:
                yield
            except BaseException:
                for part in [self.packages / MODULE, *self.packages.glob(f"{MODULE}_python-*.dist-info")]:
                    shutil.rmtree(part, ignore_errors=True)
                for part in parts:
                    (Path(aside) / part.name).rename(part)
                raise


def ask_engine(python: str = sys.executable) -> dict[str, Any]:
    """Return what the engine of an environment can do, or its problem."""
    try:
        done = subprocess.run([python, "-P", "-c", CHECK], capture_output=True, text=True, timeout=CHECK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"problem": str(error)}
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        return {"problem": words[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _ready_wheel(folder: Path, version: str) -> Path | None:
    """Return the built package in a folder, if there is one."""
    found = sorted(folder.glob(f"{MODULE}_python-{version}-*.whl"))
    return found[-1] if found else None


def recorded_backend(prefix: Path) -> str:
    """Return which backend the engine of an environment was built for, by its record; empty where there is none."""
    try:
        own = (prefix / OWN).read_text().split()
        return recipe.backend_named_by(own) if (prefix / BUILT).exists() else ""
    except OSError:
        return ""
