"""Measures how fast a device's memory is. It predicts the time of a step before the device is used."""

import ctypes
import time
from typing import Final

from twd.engine.library import EngineDevice, ggml

SAMPLE_BYTES: Final = 256 * 1024 * 1024
SAMPLES: Final = 6
_ROOM: Final = 4
"""A device is not measured if its free memory is less than this many samples."""


def memory_speed(device: EngineDevice) -> int:
    """The bytes per second at which its memory can be filled, rounded to two digits; 0 if there is no room."""
    if device.free_bytes < _ROOM * SAMPLE_BYTES:
        return 0
    pointer = ctypes.c_void_p
    kind = ggml("ggml_backend_dev_buffer_type", [pointer], pointer)(device.handle)
    buffer = ggml("ggml_backend_buft_alloc_buffer", [pointer, ctypes.c_size_t], pointer)(kind, SAMPLE_BYTES)
    if not buffer:
        return 0
    fill = ggml("ggml_backend_buffer_clear", [pointer, ctypes.c_uint8], None)
    best = float("inf")
    for number in range(SAMPLES):
        began = time.perf_counter()
        fill(buffer, number)
        best = min(best, time.perf_counter() - began)
    ggml("ggml_backend_buffer_free", [pointer], None)(buffer)
    return int(float(f"{SAMPLE_BYTES / max(best, 1e-9):.1e}"))
