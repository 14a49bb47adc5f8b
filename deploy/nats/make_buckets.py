#!/usr/bin/env python3
"""Make the one bucket that the broker keeps, for claims: make_buckets.py

It needs the admin's key, and no service may do it. Once is enough: the bucket is on the broker's disk. In a cluster,
run it when all three nodes are up, so that each holds a copy. Where the broker is and the key come from twd's settings,
as `TWD_BUS_URL`, `TWD_BUS_TLS_CA` and `TWD_BUS_NKEY_FILE`; `TWD_NODE` names the key's machine, if that is not `desk`.
"""

import asyncio
import os
import sys
from pathlib import Path

from twd.bus.base import BusError
from twd.bus.followed_leases import make_claims
from twd.bus.permissions import ADMIN
from twd.kit.connect import connect
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.settings.load import load_settings

MACHINE = os.environ.get("TWD_NODE", "desk")


async def main() -> int:
    """Make it, and say how many copies there are."""
    settings = load_settings(None, os.environ, Path.cwd(), Path.home()).settings
    try:
        bus = await connect(settings, ADMIN, MACHINE)
        try:
            copies = await make_claims(bus, LEASE_BUCKET, LEASE_TTL_S)
        finally:
            await bus.close()
    except BusError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"the bucket for claims is there, {copies} time(s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
