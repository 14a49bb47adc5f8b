"""The build of our engine and its devices, as JSON on stdout: `python -m twd.engine.devices.describe [--measure]`.

It runs in its own process: a GPU driver that lists its devices keeps memory until the process ends, and it may fail
when the speed of their memory is measured.
"""

import json
import sys
from typing import Any, Final

from twd.engine.devices.speed import memory_speed
from twd.engine.library import LIBRARIES, devices, place_of, supports_rpc, version
from twd.engine.rpc.probe import OURS
from twd.process import platform

MEASURE: Final = "--measure"


def describe(measure: bool) -> dict[str, Any]:
    """The build and its devices; `measure`: also how fast the memory of GPUs is."""
    found = [
        {
            "name": device.name,
            "description": device.description,
            "kind": device.kind,
            "total": device.total_bytes,
            "free": device.free_bytes,
            "place": place_of(device),
            "bandwidth": memory_speed(device) if measure and device.is_gpu else 0,
        }
        for device in devices()
    ]
    return {
        "version": f"llama-cpp-python {version()}",
        "path": str(LIBRARIES),
        "rpc": str(OURS) if supports_rpc() else "",
        "devices": found,
    }


if __name__ == "__main__":
    platform.hold_on_to_parent()
    sys.stdout.write(json.dumps(describe(MEASURE in sys.argv)))
