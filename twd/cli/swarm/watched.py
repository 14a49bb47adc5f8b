"""A transfer that a command runs itself: it shows how far that is, and Ctrl-C keeps what came."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from twd.cli.swarm.transfer_bar import TransferView
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.swarm.puller import Pull


class Watchable(Protocol):
    """One file on its way."""

    target: Path

    @property
    def pull(self) -> "Pull":
        """Its pull."""
        ...

    async def run(self) -> None:
        """Until it is there."""
        ...


async def watched(transfer: Watchable, view: TransferView) -> None:
    """Run it, and show how far it is."""
    from twd.process.run_service import StopRequests, unless

    stop = StopRequests(lambda: None)
    stop.watch()
    showing = asyncio.get_running_loop().call_later(0.0, lambda: None)

    def show() -> None:
        nonlocal showing
        view.show(transfer.pull.progress())
        showing = asyncio.get_running_loop().call_later(0.5, show)

    show()
    try:
        await unless(stop.asked, transfer.run())
    finally:
        showing.cancel()
        counts, done = transfer.pull.counts, transfer.target.exists()
        more = {
            "fetched_bytes": counts.fetched_bytes,
            "wasted_bytes": counts.wasted_bytes,
            "by_source": counts.by_source,
        }
        view.end(transfer.pull.progress(), "finished" if done else "stopped", path=str(transfer.target), **more)
        if done:
            view.sources(counts.by_source)
    if stop.asked.is_set() and not transfer.target.exists():
        raise CommandError(ExitCode.INTERRUPTED, "stopped; what came is kept, and the same command goes on from there")
