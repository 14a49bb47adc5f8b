"""Probe of this machine's CPU and memory."""

import platform
import re
from pathlib import Path
from typing import Final

import psutil

from twd.engine.host_memory.limits import available_bytes, total_bytes
from twd.wire.node import CpuFacts, MemoryFacts

CPUINFO: Final = Path("/proc/cpuinfo")
FEATURES: Final = (
    *("sse3", "ssse3", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"),
    *("amx_int8", "neon", "asimd", "asimddp", "fphp", "i8mm", "sve", "sve2"),
)
"""CPU features that llama.cpp has kernels for."""


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """Return the CPU's name and features from /proc/cpuinfo."""
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    return (name[1].strip() if name else ""), [feature for feature in FEATURES if feature in found]


def cpu_facts(bandwidth: int = 0) -> CpuFacts:
    """Return the CPU's facts; `bandwidth` is that of its memory in bytes a second, measured before."""
    name, features = parse_cpuinfo(CPUINFO.read_text("utf-8", "replace")) if CPUINFO.exists() else ("", [])
    threads = psutil.cpu_count() or 1
    return CpuFacts(
        name=name or platform.processor() or platform.machine(),
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        features=features,
        bandwidth=bandwidth,
    )


def memory_facts() -> MemoryFacts:
    """Return memory and swap now, in bytes."""
    swap = psutil.swap_memory()
    return MemoryFacts(
        total=total_bytes(),
        available=available_bytes(),
        swap_total=swap.total,
        swap_free=swap.free,
        host_available=int(psutil.virtual_memory().available),
    )
