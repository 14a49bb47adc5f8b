"""A card without a card: Mesa's llvmpipe, and llama.cpp's Vulkan backend for it."""

import os
import sys
from pathlib import Path

import pytest

from tests.engine.steps.conftest import loop, loop_library
from tests.rules.source import ROOT
from twd.engine.library import version

__all__ = ["loop", "loop_library"]
SCRIPT = ROOT / "contrib/benchmarks/gpu/llvmpipe.sh"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twd/peers"
DRIVERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d")


@pytest.fixture(scope="session")
def llvmpipe() -> dict[str, str]:
    """The environment of processes that compute on it; skips where it is not installed."""
    built = CACHE / version() / "build-vulkan"
    backend, ready = built / "bin/libggml-vulkan.so", built / "kernels-compiled"
    drivers = [driver for folder in DRIVERS for driver in Path(folder).glob("lvp_icd*.json")]
    if sys.platform != "linux" or not drivers or not backend.exists() or not ready.exists():
        missing = "llama.cpp's Vulkan backend for it" if drivers else "Mesa's llvmpipe"
        pytest.skip(f"{missing} is not here; {SCRIPT.relative_to(ROOT)} installs it")
    cards = {"VK_DRIVER_FILES": str(drivers[0]), "VK_ICD_FILENAMES": str(drivers[0]), "GGML_VK_VISIBLE_DEVICES": "0"}
    return {**os.environ, **cards, "GGML_BACKEND_PATH": str(backend)}
