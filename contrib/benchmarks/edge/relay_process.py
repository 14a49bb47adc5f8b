"""A relay of the running installation to the upstream, in this process.

usage: TWD_HOME=... python relay_process.py URL
"""

import asyncio
import sys

import msgspec

from twd.backends.finding import open_backend
from twd.backends.relay import Relay
from twd.cli.context import Ground
from twd.kit import platform
from twd.kit.connect import connect
from twd.kit.run_service import run_service
from twd.kit.settings import Server
from twd.wire.base import ModelId


def main() -> int:
    """Run until a signal ends it."""
    ground = Ground()
    settings = ground.with_bus()
    server = msgspec.convert({"url": sys.argv[1], "kind": "openai", "model_name": "fake"}, Server)
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        return runner.run(
            run_service(
                lambda surroundings: Relay(surroundings, ModelId("fake"), lambda: open_backend(server)),
                lambda: connect(settings, "admin", ground.node),
                ground.node,
            )
        )


if __name__ == "__main__":
    raise SystemExit(main())
