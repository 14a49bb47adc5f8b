"""A transfer that a command runs itself: it shows how far that is, and Ctrl-C keeps what came."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from twd.cli.swarm.transfer_bar import TransferView
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

if TYPE_CHECKING:
    from twd.swarm.puller import Counts, Progress


class Watchable(Protocol):
    """A model on its way."""

    @property
    def target(self) -> Path:
        """The name that its first file gets."""
        ...

    @property
    def counts(self) -> "Counts":
        """What came."""
        ...

    def progress(self) -> "Progress":
        """How far it is."""
        ...

    async def run(self) -> None:
        """Until it is there."""
        ...


async def watched(transfer: Watchable, view: TransferView, cut: Callable[[], Path] | None = None) -> Path:
    """Run it, and show how far it is; returns the file. `cut` writes a slice of what came, and returns its path."""
    from twd.process.run_service import StopRequests, unless

    stop = StopRequests(lambda: None)
    stop.watch()
    showing = asyncio.get_running_loop().call_later(0.0, lambda: None)
    made: Path | None = None

    def show() -> None:
        nonlocal showing
        view.show(transfer.progress())
        showing = asyncio.get_running_loop().call_later(0.5, show)

    show()
    try:
        await unless(stop.asked, transfer.run())
        if transfer.target.exists():
            made = transfer.target
        elif cut is not None and not stop.asked.is_set():
            made = await asyncio.to_thread(cut)
    finally:
        showing.cancel()
        counts = transfer.counts
        more = {
            "fetched_bytes": counts.fetched_bytes,
            "wasted_bytes": counts.wasted_bytes,
            "by_source": counts.by_source,
        }
        state = "finished" if made is not None else "stopped"
        view.end(transfer.progress(), state, path=str(made or transfer.target), **more)
        if made is not None:
            view.sources(counts.by_source)
    if made is None:
        raise CommandError(ExitCode.INTERRUPTED, "stopped; what came is kept, and the same command goes on from there")
    return made
