"""The bytes that some layers of a model need, from all of its files: the headers first, then what these name."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from twd.gguf_tools.slice import ModelSource
from twd.kit.tasks import TaskGroup
from twd.pieces.checks import Checks
from twd.pieces.layers import Ranges, check_together, cut_name, header_ranges, layer_ranges, partial_source
from twd.pieces.manifest import Manifest
from twd.pieces.partial import missing_bytes
from twd.pieces.parts import PartFolder
from twd.swarm.puller import Counts, Progress
from twd.swarm.transfer import Transfer
from twd.wire.swarm import LayerRange

AT_ONCE: Final = 4
"""So many files of one model are on their way at once."""
CLOSING_S: Final = 30.0
Begin = Callable[[Manifest, Path, Ranges], Transfer]
"""Makes a transfer of these bytes of a file, with sources."""


@dataclass(eq=False)
class _File:
    manifest: Manifest
    target: Path
    ranges: Ranges
    transfers: list[Transfer] = field(default_factory=list)
    missing: int = field(init=False)
    """The bytes of its ranges that must come, until its turn comes."""

    def __post_init__(self) -> None:
        self.want(())

    def want(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Add ranges, and look what is missing on the disk."""
        self.ranges = [*self.ranges, *ranges]
        self.missing = missing_bytes(self.target, Checks.of(self.manifest), self.ranges)

    def progress(self) -> Progress:
        """How far this file is; one whose turn comes later has nothing."""
        if self.transfers:
            return self.transfers[-1].progress()
        return Progress(0, self.missing, 0.0, 0, 0)


class LayerTransfer:
    """Fetches what a slice is cut from. The partial files keep to their folder's share of the disk."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        layers: LayerRange | None,
        parts: PartFolder,
        begin: Begin,
        end: Callable[[Transfer], None] = lambda transfer: None,
        turn: asyncio.Lock | None = None,
    ) -> None:
        """`layers`: None for the headers alone. `end` is called with each transfer that was begun. `turn` is held while
        the partial files are written, as only one may write them at a time.

        Raises TwdError where layers cannot be fetched alone.
        """
        check_together(manifests)
        self._files = [_File(one, parts.target(one), header_ranges(one)) for one in manifests]
        self._layers, self._folder, self._begin, self._end = layers, parts, begin, end
        self._turn = turn or asyncio.Lock()

    @property
    def target(self) -> Path:
        """The name that the model's first file would have."""
        return self._files[0].target

    @property
    def source(self) -> ModelSource:
        """The partial files as a model to cut the slice from."""
        return partial_source(self._targets, self._manifests)

    @property
    def parts(self) -> list[tuple[Manifest, Path]]:
        """The manifest of each file, and where its bytes are."""
        return list(zip(self._manifests, self.source.files, strict=True))

    @property
    def slice_name(self) -> str:
        """The usual file name of the slice; the headers must be there."""
        assert self._layers is not None
        return cut_name(self._targets, self._manifests, self._layers)

    @property
    def _targets(self) -> list[Path]:
        return [file.target for file in self._files]

    @property
    def _manifests(self) -> list[Manifest]:
        return [file.manifest for file in self._files]

    async def run(self) -> None:
        """Run until all bytes are there; raises why not."""
        await self._fetch()
        if self._layers is not None:
            await asyncio.to_thread(self._plan, self._layers)
            await self._fetch()

    def _plan(self, layers: LayerRange) -> None:
        """Read from the headers what comes next, and make room for it."""
        found = layer_ranges(self._targets, self._manifests, layers)
        for file, ranges in zip(self._files, found, strict=True):
            file.want(ranges)
        self._folder.make_room(sum(file.missing for file in self._files), keep=self._targets)

    async def _fetch(self) -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        async with self._turn:
            await _all_of(self._one(file, turns) for file in self._files)

    async def _one(self, file: _File, turns: asyncio.Semaphore) -> None:
        async with turns:
            if file.transfers and not file.missing:
                return
            transfer = self._begin(file.manifest, file.target, file.ranges)
            file.transfers.append(transfer)
            try:
                await transfer.run()
            finally:
                self._end(transfer)

    def progress(self) -> Progress:
        """Return how far all files are."""
        every = [file.progress() for file in self._files]
        return Progress(
            done_bytes=sum(one.done_bytes for one in every),
            total_bytes=sum(one.total_bytes for one in every),
            bytes_s=sum(one.bytes_s for one in every),
            sources=max(one.sources for one in every),
            banned=max(one.banned for one in every),
        )

    @property
    def counts(self) -> Counts:
        """What came, of all files."""
        return Counts.sum_of(transfer.pull.counts for file in self._files for transfer in file.transfers)


async def _all_of(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first error ends the others, and is raised when they have ended."""
    errors: list[BaseException] = []
    group = TaskGroup("files", lambda name, error: errors.append(error))
    try:
        tasks = [group.start(f"file {number}", work) for number, work in enumerate(works)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await group.close(CLOSING_S)
    if errors:
        raise errors[0]
