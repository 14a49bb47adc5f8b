"""The memory of a device is measured through llama.cpp, whatever kind it is; here it is the processor's."""

from dataclasses import replace

from twd.engine.devices.speed import SAMPLE_BYTES, memory_speed
from twd.engine.library import devices


def test_a_device_with_room_is_measured() -> None:
    device = next(one for one in devices() if one.kind == "cpu")
    assert memory_speed(replace(device, free_bytes=8 * SAMPLE_BYTES)) > 10**8


def test_a_device_without_room_is_left_alone() -> None:
    device = next(one for one in devices() if one.kind == "cpu")
    assert memory_speed(replace(device, free_bytes=SAMPLE_BYTES)) == 0
