"""Fetches layers of models whose files are not here, and cuts slices from what came: one job for each wish."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from twd.gguf_tools.slice import write_slice
from twd.gguf_tools.slice_cache import cached_slice, find_slice, named_slice
from twd.kit.tasks import TaskGroup, cancel
from twd.pieces.layers import header_ranges
from twd.pieces.manifest import Manifest
from twd.pieces.parts import PartFolder
from twd.swarm.layer_transfer import LayerTransfer
from twd.swarm.machines import Machine
from twd.swarm.puller import Progress
from twd.swarm.pulls import Pulls, Teller
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.swarm import (
    Fetching,
    LayerRange,
    PullAnswered,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullWanted,
    SliceHere,
)

JOBS_MAX: Final = 16
FAILED_S: Final = 60.0
"""Seconds for which a failed job is still told."""
log = logging.getLogger("twd.swarm")


class Wish(NamedTuple):
    """Which layers of which model are wanted here."""

    hash: str
    layers: LayerRange


@dataclass(eq=False)
class LayerJob:
    """One wish on its way."""

    wish: Wish
    event: PullWanted
    manifests: Sequence[Manifest] = ()
    transfer: LayerTransfer | None = None
    work: asyncio.Task[None] | None = None
    problem: str = ""
    ended_at: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def file(self) -> str:
        """The name of the model's file, as far as it is known."""
        return self.manifests[0].filename if self.manifests else self.event.file or self.wish.hash

    @property
    def root(self) -> str:
        """The root of its first file, as far as it is known."""
        return self.manifests[0].name if self.manifests else self.event.root

    def progress(self) -> Progress:
        """Return how far it is."""
        return self.transfer.progress() if self.transfer is not None else Progress(0, 0, 0.0, 0, 0)

    def told(self) -> Fetching:
        """Return what the lease tells of it."""
        now = self.progress()
        return Fetching(
            hash=self.wish.hash,
            layers=self.wish.layers,
            done_bytes=now.done_bytes,
            total_bytes=now.total_bytes,
            bytes_s=now.bytes_s,
            problem=self.problem[:1024],
        )


class LayerPulls:
    """All jobs of this machine."""

    def __init__(
        self,
        pulls: Pulls,
        machines: Callable[[], Sequence[Machine]],
        parts: PartFolder,
        slices: Path,
        teller: Teller,
    ) -> None:
        """`machines`: returns the other machines. `slices`: the folder of cached slices."""
        self._pulls, self._machines, self.parts, self._slices = pulls, machines, parts, slices
        self._node, self._said = teller.node, teller.said
        self._jobs: dict[Wish, LayerJob] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One lock for each root: jobs of one file take turns."""
        self._tasks = TaskGroup("layers", lambda name, error: log.error("%s: %r", name, error))

    # -- wishes ------------------------------------------------------------------------------------

    async def begin(self, event: PullWanted, dest: Path | None) -> PullAnswered:
        """Start a job, unless its slice is here or it runs already; returns the answer to the request.

        Without a `dest` the slice goes to the cache. A wish by name is answered when the manifest has come. A wish by
        hash is answered at once, because another machine may have to make its manifest first, which takes long.
        """
        assert event.layers is not None
        manifests = [] if event.hash else await self._pulls.manifests.find(event, self._machines())
        for manifest in manifests:
            header_ranges(manifest)
        first = manifests[0] if manifests else None
        wish = Wish(first.hash if first is not None else event.hash, event.layers)
        here = self._here(wish) if dest is None else None
        if here is None:
            self._start(wish, event, manifests, dest)
        return PullAnswered(
            node=self._node,
            root=first.name if first is not None else event.root,
            file=first.filename if first is not None else event.file,
            path=str(here or ""),
            done=here is not None,
        )

    def _here(self, wish: Wish) -> Path | None:
        """Return the file that makes a fetch unnecessary: the slice, or the whole model."""
        return find_slice(self._slices, wish.hash, *_parts(wish.layers)) or self._pulls.whole(wish.hash)

    def _start(self, wish: Wish, event: PullWanted, manifests: Sequence[Manifest], dest: Path | None) -> None:
        known = self._jobs.get(wish)
        if known is not None and not known.ended_at:
            return
        if sum(not job.ended_at for job in self._jobs.values()) >= JOBS_MAX:
            raise TwdError(FailureCode.BUSY, f"{JOBS_MAX} models are on their way here; wait for one of them")
        job = self._jobs[wish] = LayerJob(wish, event, manifests)
        job.work = self._tasks.start(f"layers of {job.file}", self._run(job, dest))

    async def stop(self, wish: Wish) -> None:
        """Stop a job; what came is kept."""
        job = self._jobs.pop(wish, None)
        if job is not None and job.work is not None and not job.work.done():
            await cancel(job.work, 10.0)

    async def close(self) -> None:
        """Stop all jobs."""
        await self._tasks.close(10.0)

    # -- one job -----------------------------------------------------------------------------------

    async def _run(self, job: LayerJob, dest: Path | None) -> None:
        try:
            job.manifests = job.manifests or await self._pulls.manifests.find(job.event, self._machines())
            lock = self._locks.setdefault(job.root, asyncio.Lock())
            async with lock:
                transfer = job.transfer = self._pulls.layers(job.manifests, job.wish.layers, self.parts, self._machines)
                await transfer.run()
                path = await asyncio.to_thread(self._cut, transfer, job.wish.layers, dest)
        except TwdError as error:
            self._failed(job, error.failure)
        except OSError as error:
            self._failed(job, Failure(code=FailureCode.DISK_FULL, message=f"{job.file}: {error}"))
        else:
            self._finished(job, transfer, path)

    def _cut(self, transfer: LayerTransfer, layers: LayerRange, dest: Path | None) -> Path:
        first, end, head = _parts(layers)
        if dest is None:
            return cached_slice(transfer.source, first, end, head, self._slices)
        path = dest / transfer.slice_name if dest.is_dir() else dest
        return write_slice(transfer.source, first, end, path, head=head).path

    def _finished(self, job: LayerJob, transfer: LayerTransfer, path: Path) -> None:
        self._jobs.pop(job.wish, None)
        counts, now = transfer.counts, job.progress()
        self._said(
            PullFinished(
                node=self._node,
                root=job.root,
                file=job.file,
                path=str(path),
                total_bytes=now.total_bytes,
                fetched_bytes=counts.fetched_bytes,
                wasted_bytes=counts.wasted_bytes,
                ms=round((time.monotonic() - job.began) * 1000),
                hash=job.wish.hash,
                layers=job.wish.layers,
            )
        )

    def _failed(self, job: LayerJob, failure: Failure) -> None:
        job.problem, job.ended_at = failure.message, time.monotonic()
        log.warning("layers of %s did not come: %s", job.file, failure.message)
        self._said(
            PullFailed(
                node=self._node,
                root=job.root,
                file=job.file,
                failure=failure,
                hash=job.wish.hash,
                layers=job.wish.layers,
            )
        )

    # -- what is told ------------------------------------------------------------------------------

    def slices(self) -> list[SliceHere]:
        """Return the slices in the cache."""
        names = (path.name for path in self._slices.glob("*.gguf")) if self._slices.is_dir() else ()
        found = [known for name in names if (known := named_slice(name)) is not None]
        return [
            SliceHere(hash=hash_, layers=LayerRange(first=first, end=end, head=head))
            for first, end, head, hash_ in sorted(found)
        ]

    def fetching(self) -> list[Fetching]:
        """Return the jobs that run, and those that failed lately; not those of commands, which say where to write."""
        old = time.monotonic() - FAILED_S
        self._jobs = {wish: job for wish, job in self._jobs.items() if not job.ended_at or job.ended_at > old}
        return [job.told() for job in self._jobs.values() if not job.event.dest]

    def progressed(self) -> Iterator[PullProgressed]:
        """Yield the progress of each job that fetches."""
        for job in self._jobs.values():
            if job.transfer is None or job.ended_at:
                continue
            now = job.progress()
            yield PullProgressed(
                node=self._node,
                root=job.root,
                file=job.file,
                done_bytes=now.done_bytes,
                total_bytes=now.total_bytes,
                bytes_s=now.bytes_s,
                eta_s=None if now.eta_s == float("inf") else now.eta_s,
                sources=now.sources,
                banned=now.banned,
                hash=job.wish.hash,
                layers=job.wish.layers,
            )


def _parts(layers: LayerRange) -> tuple[int, int, bool]:
    return layers.first, layers.end, layers.head
