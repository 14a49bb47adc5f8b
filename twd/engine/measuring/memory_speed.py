"""How fast all cores together read memory: a step's time can be told by that before a model was ever loaded."""

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
