"""How llama.cpp is built: CMake's options for each kind of device, with our kernels. It needs no other package.

`make setup` and `twd engine install` both build by it, so one keeps what the other built.
"""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

LLAMA_CMAKE: Final = ("-DGGML_RPC=ON", "-DLLAVA_BUILD=OFF")
NO_AMX: Final = ("-DCMAKE_C_FLAGS=-mno-amx-int8", "-DCMAKE_CXX_FLAGS=-mno-amx-int8")
"""GCC before 12.4 and 13.3 (bug 114098) makes kernels for AMX that crash; whether others are exact was not tried."""
PORTABLE_X86: Final = ("-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON")
PORTABLE_FEATURES: Final = frozenset({"avx2", "fma", "f16c"})
"""What a processor must have for a portable build, in Linux' words; nearly all since 2013 do."""
KERNEL_FILES: Final = (".cmake", ".cpp", ".h")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twd"


class EngineBackend(NamedTuple):
    """One way to build the engine."""

    cmake: tuple[str, ...]
    needs: str
    """A program that must be there to build it; empty: a C++ compiler is enough."""
    mend: str
    """How to get that program."""
    about: str


BACKENDS: Final = {
    "native": EngineBackend((), "", "", "for this very processor, the quickest one without a card"),
    "portable": EngineBackend(
        PORTABLE_X86, "", "", "for any processor with AVX2 (nearly all since 2013), or any 64-bit ARM"
    ),
    "cuda": EngineBackend(("-DGGML_CUDA=on",), "nvcc", "install NVIDIA's CUDA toolkit", "NVIDIA cards"),
    "rocm": EngineBackend(("-DGGML_HIP=on",), "hipcc", "install AMD's ROCm with hipcc", "AMD cards"),
    "vulkan": EngineBackend(
        ("-DGGML_VULKAN=on",), "glslc", "install the Vulkan SDK (libvulkan-dev, glslc)", "any card"
    ),
    "metal": EngineBackend(("-DGGML_METAL=on",), "xcrun", "install Xcode's command line tools", "Macs"),
}
CARDS: Final = {"nvidia-smi": "cuda", "rocm-smi": "rocm"}
"""Tools that come with a card's driver, and the build that computes there."""


def processor_features() -> frozenset[str]:
    """What the processor can do, as Linux names it; elsewhere, what it is."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.split(":")[0].strip() in ("flags", "Features"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset({platform.machine(), platform.processor()})


def cmake_of(backend: str, machine: str) -> tuple[str, ...]:
    """Return the options that a backend adds. `machine`: the kind of processor, such as x86_64."""
    if backend == "portable" and machine.lower() not in ("x86_64", "amd64"):
        return ("-DGGML_NATIVE=OFF",)
    return BACKENDS[backend].cmake


def llama_cmake(features: Iterable[str], kernels: Path, own: Iterable[str]) -> list[str]:
    """Return all options. They name the processor: a cached build for another one may crash here."""
    known = set(features)
    marker = hashlib.sha256(" ".join(sorted(known)).encode()).hexdigest()[:12]
    include = f"-DCMAKE_PROJECT_ggml_INCLUDE={(kernels / 'kernels.cmake').as_posix()}"
    no_amx = NO_AMX if "amx_int8" in known else ()
    return [*LLAMA_CMAKE, include, f"-DTWD_PROCESSOR={marker}", *no_amx, *own]


def kernel_sources() -> Path:
    """Return the folder of our kernels: beside this file where twd is installed, else in the checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "kernels"
    return installed if installed.is_dir() else here.parents[2] / "contrib" / "llama"


def _kernels() -> "list[Path]":
    return sorted(file for file in kernel_sources().iterdir() if file.suffix in KERNEL_FILES)


def kernels_folder() -> Path:
    """Return where they lie during a build. The name says what they are, as a build is cached by its options."""
    digest = hashlib.sha256()
    for file in _kernels():
        digest.update(file.read_bytes())
    return CACHE / "kernels" / digest.hexdigest()[:12]


def place_kernels() -> Path:
    """Copy them there, whole or not at all, and return the folder."""
    folder = kernels_folder()
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    for file in _kernels():
        shutil.copy(file, draft)
    try:
        draft.rename(folder)
    except OSError:  # somebody else was quicker
        shutil.rmtree(draft)
    return folder


def build_versions() -> "list[str]":
    """Return what compiles llama.cpp, each as NAME==VERSION; empty where the list is not at hand."""
    here = Path(__file__).resolve().parent
    for file in (here / "build.txt", here.parents[2] / "requirements" / "build.txt"):
        if file.is_file():
            lines = [line.split()[0] for line in file.read_text().splitlines() if line[:1].isalnum()]
            return [line for line in lines if "==" in line]
    return []


def obstacle(backend: str, features: Iterable[str]) -> str:
    """Return why a backend cannot be built here, and what to do; empty if it can."""
    if backend == "metal" and sys.platform != "darwin":
        return "Metal is there on Macs alone"
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    if not any(shutil.which(name) for name in compilers):
        return "no C++ compiler is here: install g++ or clang, or take a build from elsewhere with --from FOLDER"
    wanted = BACKENDS[backend]
    if wanted.needs and not shutil.which(wanted.needs):
        return f"{wanted.needs} is not here: {wanted.mend}"
    if backend == "portable" and platform.machine().lower() in ("x86_64", "amd64"):
        missing = sorted(PORTABLE_FEATURES - set(features))
        if missing and Path("/proc/cpuinfo").exists():
            return f"this processor lacks {', '.join(missing)}: a portable build would crash here; take native"
    return ""


def backend_named_by(own: Iterable[str]) -> str:
    """Return the backend that these options stand for; `own` if somebody chose options of their own."""
    given = {option.lower() for option in own}
    for name in BACKENDS:
        if given == {option.lower() for option in cmake_of(name, platform.machine())}:
            return name
    return "own"
