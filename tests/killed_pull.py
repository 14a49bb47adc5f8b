"""A command that pulls is killed on its way, and begun again."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from twd.pieces.tree import UNIT


def pulled_after_a_kill(pull: Sequence[str]) -> dict[str, Any]:
    """Kill a slow pull when two units are here, and let it end; returns the last line of its JSON."""
    slow = {**os.environ, "TWD_SWARM_DOWNLOAD_MIB_S": "0.5"}
    with subprocess.Popen(pull, stdout=subprocess.PIPE, text=True, env=slow) as process:
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["done_bytes"] < 2 * UNIT:
            continue
        process.kill()
        assert process.wait() == -signal.SIGKILL
    ended = subprocess.run(pull, capture_output=True, text=True, check=True)
    last: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return last
