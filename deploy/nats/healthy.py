#!/usr/bin/env python3
"""Whether a service works, as a container's health check: healthy.py SERVICE

It signs in with the service's own key, and waits for the lease that the service renews every few seconds; `broker` and
`edge` are asked over HTTP. The exit code is 0 when all is well, and the reason is printed when not.
"""

import asyncio
import os
import sys
import urllib.request
from pathlib import Path

from twd.bus.base import BusError, BusMessage
from twd.kit.connect import connect
from twd.kit.ids import node_id
from twd.kit.service import LEASE_BUCKET
from twd.process.process_table import StartPhase, stage_of
from twd.settings.load import load_settings
from twd.wire.failures import TwdError
from twd.wire.service import ServiceLease, read_lease

PROBES = {"broker": "http://127.0.0.1:8222/healthz", "edge": "http://127.0.0.1:8088/healthz"}
WORKING = (StartPhase.READY, StartPhase.LOADING, StartPhase.DRAINING)
WAIT_S = 8.0
"""Above the time between two renewals."""


def answers(url: str) -> str:
    """What is wrong with an HTTP probe; nothing is the good answer."""
    try:
        with urllib.request.urlopen(url, timeout=3):
            return ""
    except OSError as error:
        return f"{url}: {error}"


async def next_lease(service: str) -> ServiceLease:
    """What the service says of itself when it renews its lease."""
    settings = load_settings(None, os.environ, Path.cwd(), Path.home()).settings
    node = node_id(settings.node or os.uname().nodename)
    bus = await connect(settings, service, node, WAIT_S)
    try:
        told: asyncio.Queue[ServiceLease] = asyncio.Queue(1)
        prefix = f"$KV.{LEASE_BUCKET}."

        def hear(message: BusMessage) -> None:
            lease = read_lease(message.data, message.subject[len(prefix) :])
            if lease is not None and told.empty():
                told.put_nowait(lease)

        await bus.subscribe(f"{prefix}{service}.{node}.>", hear)
        return await asyncio.wait_for(told.get(), WAIT_S)
    finally:
        await bus.close()


def judged(service: str) -> str:
    """What is wrong with a service by its lease; nothing is the good answer."""
    try:
        stage = stage_of(asyncio.run(next_lease(service)))
    except TimeoutError:
        return f"{service}: no lease within {WAIT_S:g} s"
    except (BusError, TwdError) as error:
        return f"{service}: {error}"
    return "" if stage in WORKING else f"{service}: {stage.value}"


def main(service: str) -> int:
    """Look, and say what is wrong."""
    wrong = answers(PROBES[service]) if service in PROBES else judged(service)
    sys.stdout.write(f"{wrong}\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
