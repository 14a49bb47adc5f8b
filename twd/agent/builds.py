"""Builds of llama.cpp on this machine, besides our engine: programs with the version that they report."""

import asyncio
import os
import re
import shutil
from typing import Final

from twd.agent.launch import RPC_PROGRAMS
from twd.agent.programs import ProgramFailed, output_of
from twd.settings.model import BinariesConfig
from twd.wire.node import Build

_VERSION: Final = re.compile(r"^version:\s*(\S+)(?:\s*\(([0-9a-f]+)\))?", re.MULTILINE)
_BACKENDS: Final = (("ggml_cuda_init", "CUDA"), ("ggml_vulkan:", "Vulkan"), ("ggml_metal_", "Metal"), ("ROCm", "ROCm"))


def parse_version(text: str) -> str:
    """The version in what `llama-server --version` writes: build number and commit."""
    found = _VERSION.search(text)
    if found is None:
        return ""
    return f"{found[1]} ({found[2]})" if found[2] else found[1]


def parse_backends(text: str) -> list[str]:
    """Return the backends that a program names in its start output."""
    return [name for sign, name in _BACKENDS if sign in text]


async def find_builds(binaries: BinariesConfig) -> list[Build]:
    """Return llama-server and the RPC workers that are installed here; llama-server is asked once for its version."""
    asked = (_ask(path, tells_version="llama-server" in os.path.basename(path)) for path in _paths(binaries))
    return await asyncio.gather(*asked)


def _paths(binaries: BinariesConfig) -> list[str]:
    programs = (binaries.llama_server, binaries.rpc_server, *RPC_PROGRAMS)
    found = (shutil.which(os.path.expanduser(program)) for program in programs if program)
    return list(dict.fromkeys(path for path in found if path))


async def _ask(path: str, tells_version: bool) -> Build:
    """Describe one program. RPC workers have no --version: their protocol version is read when they run."""
    name = os.path.basename(path).removesuffix(".exe")
    if not tells_version:
        return Build(name=name, path=path)
    try:
        text = await output_of((path, "--version"), with_errors=True)
    except ProgramFailed as problem:
        return Build(name=name, path=path, version=str(problem)[:1024])
    return Build(name=name, path=path, version=parse_version(text), backends=parse_backends(text))
