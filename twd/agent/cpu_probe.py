"""The processor and the memory of this machine."""

import ctypes
import os
import platform
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from twd.engine.memory import available_bytes, total_bytes
from twd.kit.cores import usable_cores
from twd.wire.node import CpuFacts, MemoryFacts

CPUINFO: Final = Path("/proc/cpuinfo")
FEATURES: Final = (
    *("sse3", "ssse3", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"),
    *("amx_int8", "neon", "asimd", "asimddp", "fphp", "i8mm", "sve", "sve2"),
)
"""Those that llama.cpp has kernels for."""
_SAMPLE_BYTES: Final = 32 * 1024 * 1024
_SAMPLES: Final = 6
_MEMCHR: Final = ctypes.CDLL(None if os.name != "nt" else "msvcrt").memchr
_MEMCHR.argtypes, _MEMCHR.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """The name and the features in /proc/cpuinfo."""
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    return (name[1].strip() if name else ""), [feature for feature in FEATURES if feature in found]


def cpu_facts(bandwidth: int = 0) -> CpuFacts:
    """The processor as it is; `bandwidth` was measured before."""
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
    """Memory and swap now."""
    swap = psutil.swap_memory()
    return MemoryFacts(
        total=total_bytes(),
        available=available_bytes(),
        swap_total=swap.total,
        swap_free=swap.free,
        host_available=int(psutil.virtual_memory().available),
    )


def measure_bandwidth(threads: int = 0) -> int:
    """Bytes a second that all cores together can read, to two digits; takes some ten milliseconds.

    The cores share what memory gives, so they are measured together, as an engine uses them.
    """
    samples = [
        ctypes.create_string_buffer(b"\1" * _SAMPLE_BYTES, _SAMPLE_BYTES) for _ in range(threads or usable_cores())
    ]
    best = min(_read_together(samples) for _ in range(_SAMPLES))
    return int(float(f"{_SAMPLE_BYTES * len(samples) / max(best, 1e-6):.1e}"))


def _read_together(samples: Sequence["ctypes.Array[ctypes.c_char]"]) -> float:
    """Seconds until the last of them was read."""
    ready = threading.Barrier(len(samples) + 1)

    def read(sample: "ctypes.Array[ctypes.c_char]") -> None:
        ready.wait()
        _MEMCHR(sample, 0, len(sample))  # the library's search reads as fast as memory gives, and lets others run

    readers = [threading.Thread(target=read, args=(sample,), name="read-memory") for sample in samples]
    for reader in readers:
        reader.start()
    ready.wait()
    began = time.perf_counter()
    for reader in readers:
        reader.join()
    return time.perf_counter() - began
