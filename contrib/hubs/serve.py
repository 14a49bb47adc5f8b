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
    given = parser.parse_args()
    files = {"m-Q4_K_M.gguf": b"GGUF" + os.urandom(given.mib << 20)}
    async with serving_hub(Hub({"org/model": Repository(files)}, bytes_s=given.mb_s * 1e6), given.host) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
