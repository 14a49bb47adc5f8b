"""A process that has imported what a service needs and waits for its command line: `python -m twd.cli.ahead stage`.

One line of JSON on stdin makes it that service; where stdin ends first, nobody wants it.
"""

import gc
import os
import sys
from importlib import import_module
from typing import Final

import msgspec

from twd.kit import platform
from twd.kit.ahead import Start

USUAL: Final = ("twd.cli.app", "twd.cli.run", "twd.kit.connect", "twd.kit.run_service")
IMPORTS: Final = {
    "stage": (*USUAL, "twd.stage.native"),
    "speculator": (*USUAL, "twd.speculator.pool_rpc"),
}


def wait(service: str) -> Start | None:
    """Be ready, then hear what to do; None: nothing."""
    for module in IMPORTS[service]:
        import_module(module)
    platform.new_event_loop().close()
    line = sys.stdin.buffer.readline()
    return msgspec.json.decode(line, type=Start) if line else None


def write_to(log: str) -> None:
    """From now on what is said goes to this log, and nothing comes in."""
    into = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (into, 1), (into, 2)):
        os.dup2(here, there)
    os.close(into)
    os.close(nothing)


def main() -> None:
    """Wait, and become what is asked for."""
    gc.disable()  # as the command line does, which this becomes
    platform.hold_on_to_parent()
    start = wait(sys.argv[1])
    if start is None:
        return
    write_to(start.log)
    from twd.cli.app import run

    sys.argv = ["twd", *start.arguments]
    sys.exit(run(start.arguments))


if __name__ == "__main__":
    main()
