"""Measures how fast all cores together read memory. It predicts the time of a step before a model is loaded."""

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from typing import Final

from twd.process.cores import usable_cores

_SAMPLE_BYTES: Final = 32 * 1024 * 1024
_SAMPLES: Final = 6
_MEMCHR: Final = ctypes.CDLL(None if os.name != "nt" else "msvcrt").memchr
_MEMCHR.argtypes, _MEMCHR.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p


def measure_bandwidth(threads: int = 0) -> int:
    """The bytes per second that all cores together can read, rounded to two digits. It takes some tens of ms.

    The cores share the memory bandwidth, so they are measured together, as an engine uses them.
    """
    samples = [
        ctypes.create_string_buffer(b"\1" * _SAMPLE_BYTES, _SAMPLE_BYTES) for _ in range(threads or usable_cores())
    ]
    best = min(_read_together(samples) for _ in range(_SAMPLES))
    return int(float(f"{_SAMPLE_BYTES * len(samples) / max(best, 1e-6):.1e}"))


def _read_together(samples: Sequence["ctypes.Array[ctypes.c_char]"]) -> float:
    """The seconds until all samples were read."""
    ready = threading.Barrier(len(samples) + 1)

    def read(sample: "ctypes.Array[ctypes.c_char]") -> None:
        ready.wait()
        _MEMCHR(sample, 0, len(sample))  # reads at memory speed, and releases the GIL

    readers = [threading.Thread(target=read, args=(sample,), name="read-memory") for sample in samples]
    for reader in readers:
        reader.start()
    ready.wait()
    began = time.perf_counter()
    for reader in readers:
        reader.join()
    return time.perf_counter() - began
