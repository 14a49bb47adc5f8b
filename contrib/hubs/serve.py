"""Serves the tests' hub with one repository, org/model, of one random file, m-Q4_K_M.gguf. Prints its address."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.models.hubs import Hub, Repository, serving_hub


async def main() -> None:
    """Until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--mb-s", type=float, default=0.0, help="speed of each connection; 0: no limit")
    parser.add_argument("--count", action="store_true", help="tell the bytes that were sent, for each line of input")
    given = parser.parse_args()
    files = {"m-Q4_K_M.gguf": b"GGUF" + os.urandom(given.mib << 20)}
    hub = Hub({"org/model": Repository(files)}, bytes_s=given.mb_s * 1e6)
    async with serving_hub(hub, given.host) as url:
        print(url, flush=True)
        while given.count and await asyncio.to_thread(sys.stdin.readline):
            print(hub.sent_bytes, flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
