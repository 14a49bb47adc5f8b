#!/usr/bin/env python3
"""Make `.venv` hold exactly what the lock files in `requirements/` name, and twd itself, editable.

`make setup` runs it. It needs Python 3.11 or later, a C++ compiler and the package registry. When
nothing has changed since the last time it is done in an instant. CMAKE_ARGS adds to how llama.cpp is
built, for example CMAKE_ARGS=-DGGML_CUDA=on; that holds until another CMAKE_ARGS is given, were it an empty one.
"""

import compileall
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twd.setup.engine import recipe  # noqa: E402 - it needs no package, so it can be read before there are any

VENV = ROOT / ".venv"
STAMP, BUILT, OWN = VENV / "twd-setup", VENV / "twd-llama", VENV / "twd-cmake-args"
LOCKS = ["requirements/dev.txt", "requirements/model.txt", "requirements/uv.txt"]
BUILD_LOCK = "requirements/build.txt"
BINARIES = VENV / ("Scripts" if os.name == "nt" else "bin")
HEARTBEAT_S = 20
BUILD_LOG = VENV / "build.log"
OF_BUILD = ("      [std", " " * 9)
"""How the lines begin that the installer repeats of a build that failed."""
COMPILES = re.compile(r"^build [^:]+: C(?:XX)?_COMPILER__", re.MULTILINE)
"""A line of ninja's plan that makes an object file."""
WRONG = re.compile(r": (fatal )?error: |CMake Error|ninja: error|No space left|Killed|internal compiler error")
AS_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}
RPC_CHECK = "import llama_cpp; raise SystemExit(0 if llama_cpp.llama_supports_rpc() else 1)"


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def fail(text: str) -> None:
    """One line that says what to do, and the end."""
    raise SystemExit(f"setup: {text}")


def wanted_stamp() -> str:
    """What the environment is made from: a change of any of it means doing it again."""
    digest = hashlib.sha256()
    for name in [*LOCKS, BUILD_LOCK, "pyproject.toml", "contrib/set_up.py", "twd/setup/engine/recipe.py"]:
        digest.update((ROOT / name).read_bytes())
    for fact in (sys.version, str(VENV), *llama_cmake()):
        digest.update(fact.encode())
    return digest.hexdigest()


def llama_cmake() -> list[str]:
    """How llama.cpp is built, for the processor of this very machine: a cached build of another one may crash here."""
    return recipe.llama_cmake(recipe.processor_features(), recipe.kernels_folder(), own_cmake().split())


@functools.cache
def own_cmake() -> str:
    """What the owner of this machine adds to that. What was given once holds: `make demo` keeps a GPU's build."""
    given = os.environ.get("CMAKE_ARGS")
    if given is not None:
        return given
    return OWN.read_text() if OWN.exists() else ""


def check_tools() -> None:
    """Say at once what is missing on this machine."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the one file that an older Python may read
        fail(f"Python 3.11 or later is needed; this is {sys.version.split()[0]}. Try: make setup PYTHON=python3.11")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        fail("no C++ compiler is here, and llama.cpp is built from source. Install g++ or clang.")


def run(argv: list[str], doing: str) -> None:
    """Run one step."""
    code = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        fail(f"{doing} failed (exit code {code}); the lines above say why")


def run_long(argv: list[str], doing: str) -> None:
    """Run a step of minutes: say now and then how far it is, and of a build that fails no more than why."""
    with tempfile.TemporaryDirectory(prefix="twd-build-", ignore_cleanup_errors=True) as folder:
        code, wrong = run_in(Path(folder), argv, doing)
    if code and wrong:
        print("\n".join(f"  {line[:300]}" for line in wrong[:10]), file=sys.stderr)
        fail(f"{doing} failed (exit code {code}) while llama.cpp was built; all that was said: {BUILD_LOG}")
    if code:
        fail(f"{doing} failed (exit code {code}); the lines above say why")


def run_in(folder: Path, argv: list[str], doing: str) -> tuple[int, list[str]]:
    """Run it with `folder` for temporary files, where the build's plan and log can be found: exit code and errors."""
    began, ended = time.monotonic(), threading.Event()
    threading.Thread(target=beat, args=(doing, folder, ended, began), daemon=True).start()
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    piped: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **AS_TEXT}
    with (
        subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **temporary}, **piped) as child,
        BUILD_LOG.open("w", encoding="utf-8") as kept,
    ):
        assert child.stderr is not None
        wrong = list(sift(child.stderr, kept))
        code = child.wait()
    ended.set()
    return code, wrong


def sift(lines: Iterable[str], kept: TextIO) -> Iterator[str]:
    """Keep what a build said, pass the rest on, and give the lines that tell of errors; CMake says why in the next."""
    goes_on = False
    for line in lines:
        if not line.startswith(OF_BUILD) and line.strip():
            sys.stderr.write(line)
            continue
        kept.write(line)
        wrong = WRONG.search(line)
        if wrong or (goes_on and line.strip()):
            yield line.strip()
            goes_on = bool(wrong) and "CMake" in line


def beat(doing: str, folder: Path, ended: threading.Event, began: float) -> None:
    """Tell every now and then how far a long step is."""
    while not ended.wait(HEARTBEAT_S):
        done = compiled(folder)
        share = "" if done is None else f"llama.cpp is {done:.0%} compiled, "
        say(f"{doing}: {share}{time.monotonic() - began:.0f} s so far")


def compiled(folder: Path) -> float | None:
    """Which part of the object files is there, by ninja's plan and log; None where no build with ninja runs."""
    for plan in folder.glob("*/build/build.ninja"):
        try:
            planned = len(COMPILES.findall(plan.read_text(**AS_TEXT)))
            entries = [line.split("\t") for line in (plan.parent / ".ninja_log").read_text(**AS_TEXT).splitlines()]
        except OSError:  # not written yet, or removed at this moment
            continue
        made = {entry[3] for entry in entries if len(entry) == 5 and entry[3].endswith((".o", ".obj"))}
        return len(made) / planned if planned else None
    return None


def make_venv() -> None:
    """A fresh environment of this Python, unless the one that is there is of the same."""
    python = BINARIES / "python"
    probe = [str(python), "-c", "import sys; print(sys.version)"]
    if python.exists():
        answer = subprocess.run(probe, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == sys.version.strip():
            return
        say("the old .venv is of another Python; making a new one")
    say(f"making .venv with Python {sys.version.split()[0]}")
    try:
        venv.create(VENV, clear=True, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        fail("this Python cannot make environments with pip; on Debian or Ubuntu install python3-venv")


def has_pinned_uv() -> bool:
    """Whether the installer that the lock names is there already."""
    pinned = next(line for line in (ROOT / "requirements/uv.txt").read_text().splitlines() if line.startswith("uv=="))
    uv = BINARIES / "uv"
    if not uv.exists():
        return False
    answer = subprocess.run([str(uv), "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.split()[1:2] == [pinned.split("==")[1].split()[0]]


def install() -> None:
    """Everything that the locks name, and nothing else; then twd itself."""
    uv, python = str(BINARIES / "uv"), str(BINARIES / "python")
    if not has_pinned_uv():
        say("installing uv, which installs the rest")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--require-hashes"]
        run([*pip, "-r", "requirements/uv.txt"], "installing uv")
    recipe.place_kernels()
    cmake = ";".join(llama_cmake())
    built = BUILT.exists() and BUILT.read_text() == cmake
    say("installing what requirements/ names" + ("" if built else "; compiling llama.cpp takes about 3 minutes, once"))
    settings = ["--config-settings-package", f"llama-cpp-python:cmake.args={cmake}"]
    if not built:  # uv would keep one that was built otherwise
        run([uv, "pip", "uninstall", "-q", "--python", python, "llama-cpp-python"], "removing an older llama.cpp")
    sync = [uv, "pip", "sync", "--python", python, "--require-hashes", "--build-constraints", BUILD_LOCK]
    run_long([*sync, "--compile-bytecode", *settings, *LOCKS], "installing packages")
    BUILT.write_text(cmake)
    editable = [uv, "pip", "install", "-q", "--python", python, "--no-deps", "--no-build-isolation", "--editable", "."]
    run(editable, "installing twd")


def compile_modules() -> None:
    """Where Python may keep nothing (PYTHONDONTWRITEBYTECODE), a dozen processes would all compile the same again."""
    compileall.compile_dir(ROOT / "twd", quiet=2)


def tell_of_cards() -> None:
    """A card that is here and not used is worth a word."""
    for tool, backend in recipe.CARDS.items():
        option = recipe.BACKENDS[backend].cmake[0]
        if shutil.which(tool) and option.lower() not in own_cmake().lower():
            mend = f"CMAKE_ARGS={option} make setup"
            say(f"{tool} is here, but llama.cpp computes on the processor; for the card: {mend}")


def main() -> None:
    """Do what is not done yet."""
    check_tools()
    compile_modules()
    stamp = wanted_stamp()
    if STAMP.exists() and STAMP.read_text() == stamp:
        return
    began = time.monotonic()
    make_venv()
    install()
    run([str(BINARIES / "python"), "-c", RPC_CHECK], "checking that llama.cpp was built with RPC")
    OWN.write_text(own_cmake())
    tell_of_cards()
    STAMP.write_text(stamp)
    say(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
