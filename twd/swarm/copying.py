"""Copies what lies on this machine already into a file on its way, in a thread that ends when nobody waits."""

import asyncio
import threading
from collections.abc import Callable

from twd.models.reuse import Copying
from twd.swarm.puller import Pull


async def copied(pull: Pull, copy: Callable[[Copying], None]) -> None:
    """Run `copy` in a thread, and note what it takes. When cancelled, wait until it has let go of the file."""
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def taken(index: int, store: str) -> None:
        loop.call_soon_threadsafe(pull.came_early, index, store)

    work = loop.run_in_executor(None, copy, Copying(taken, stop.is_set))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        raise
