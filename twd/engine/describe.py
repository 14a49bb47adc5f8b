"""What our engine is and what it can compute on, as JSON on stdout: `python -m twd.engine.describe`.

A process of its own, because a driver that is asked for its devices keeps memory until the process ends.
"""

import json
import sys
from typing import Any

from twd.engine.library import FOLDER, devices, supports_rpc, version
from twd.engine.rpc_probe import OURS
from twd.kit import platform


def describe() -> dict[str, Any]:
    """The build and its devices."""
    found = [
        {
            "name": device.name,
            "description": device.description,
            "kind": device.kind,
            "total": device.total_bytes,
            "free": device.free_bytes,
        }
        for device in devices()
    ]
    return {
        "version": f"llama-cpp-python {version()}",
        "path": str(FOLDER / "lib"),
        "rpc": str(OURS) if supports_rpc() else "",
        "devices": found,
    }


if __name__ == "__main__":
    platform.hold_on_to_parent()
    sys.stdout.write(json.dumps(describe()))
