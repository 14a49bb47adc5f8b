"""The native loop: the one in this build of llama.cpp, or one compiled for the tests."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules.source import ROOT
from twd.engine.device_rows.binding import rows_available
from twd.engine.library import LIBRARIES
from twd.engine.steps import binding

COMPILED = ("steps.cpp", "picking.cpp", "block_picks.cpp", "device_rows.cpp")
HEADERS_READ = ("picking.h", "wide.h", "noise.h", "block_picks.h", "device_rows.h")
SOURCES = [ROOT / "contrib/llama" / name for name in (*COMPILED, *HEADERS_READ)]
HEADERS = Path(sysconfig.get_paths()["purelib"]) / "include"


@pytest.fixture(scope="session")
def loop_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """A build of llama.cpp that is older than these files gets them beside it."""
    compiler = shutil.which("g++")
    if binding.steps_available() and rows_available():
        return binding.library()
    if compiler is None or not (HEADERS / "llama.h").exists():
        pytest.skip("this build of llama.cpp has no loop over steps, and there is no compiler or no llama.h")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]
    made = tmp_path_factory.getbasetemp().parent / f"twd-steps-{digest}.so"
    if not made.exists():
        unfinished = made.with_suffix(f".{os.getpid()}")
        told = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", f"-I{HEADERS}"]
        link = [f"-L{LIBRARIES}", "-l:libllama.so.0", "-l:libggml-base.so.0", "-o", str(unfinished)]
        subprocess.run([compiler, *told, *map(str, SOURCES[: len(COMPILED)]), *link], check=True, timeout=300)
        unfinished.rename(made)
    return ctypes.CDLL(str(made))


@pytest.fixture
def loop(loop_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Targets of a test have the loop."""
    known = (binding.steps_available, rows_available)
    monkeypatch.setattr(binding, "library", lambda: loop_library)
    for one in known:
        one.cache_clear()
    yield
    for one in known:
        one.cache_clear()
