"""Finds in models of this machine what a file on a hub seems to have in common with them.

The header comes from the hub; then a few bytes of each large tensor are compared there. All of it is a guess until the
whole file has the right SHA-256.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from twd.gguf_tools.header import GgufHeader, begins_whole, read_header
from twd.models.alike import WORTH_BYTES, AlikeModel, alike_models, first_probes, probe_of, same_ranges
from twd.models.remote_file import CONNECTIONS, MAGIC, HubSource
from twd.models.reuse import Copying, LocalRange, take_units
from twd.models.stores import ModelStore, StoredModel, all_models
from twd.pieces.partial import PartialFile
from twd.swarm.copying import copied
from twd.swarm.puller import Pull
from twd.wire.failures import TwdError

HEADER_UNITS_MAX: Final = 64


class Guesses:
    """Fills what can be guessed of one file; `units` are the MiBs that are written, but not known to be right."""

    def __init__(self, pull: Pull, source: HubSource, stores: Sequence[ModelStore]) -> None:
        self._pull, self._file, self._source, self._stores = pull, pull.file, source, stores
        self.units: dict[int, str] = {}
        """By MiB: the store that it is from."""
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def make(self) -> None:
        """Guess as much as possible; nothing if the hub does not answer. The pull itself asks it again."""
        try:
            models = await asyncio.to_thread(self._large_models)
            header = await self._header() if models else None
            if header is None:
                return
            own = {self._file.target, self._file.path}
            for model in await asyncio.to_thread(alike_models, header, models, own):
                same = await self._compared(model)
                if same:
                    await self._copy(same_ranges(header, model, same))
        except TwdError:
            return

    def _large_models(self) -> list[StoredModel]:
        """Return the models that are worth a look; none for a small file."""
        if self._file.checks.size < WORTH_BYTES:
            return []
        return [
            one for one in all_models(self._stores) if one.path.is_file() and one.path.stat().st_size >= WORTH_BYTES
        ]

    async def _header(self) -> GgufHeader | None:
        """Read the file from its begin on, until the header is there."""
        with TemporaryDirectory() as folder:
            begin = Path(folder) / "header.gguf"
            for index in range(min(HEADER_UNITS_MAX, len(self._file.checks))):
                data = await self._unit(index)
                if await asyncio.to_thread(_has_header, begin, data):
                    os.truncate(begin, self._file.checks.size)
                    return await asyncio.to_thread(read_header, begin)
        return None

    async def _unit(self, index: int) -> bytes:
        begin, length = self._file.checks.place(index)
        if index in self._file.have:
            return await asyncio.to_thread(self._file.read, begin, length)
        data = await self._some(begin, length)
        if index or data.startswith(MAGIC):
            await asyncio.to_thread(_keep, self._file, index, data)
            self._pull.came_early(index, self._source.name)
        return data

    async def _some(self, begin: int, length: int) -> bytes:
        async with self._turns:
            data = await self._source.some(begin, length)
        self._pull.counts.fetched_bytes += len(data)
        return data

    async def _compared(self, model: AlikeModel) -> set[int]:
        """Return the begins of the large tensors of which a few bytes are the same there."""
        large = [one for one in model.large if not self._is_here(one)]
        first = first_probes(large)
        known = await self._same(first, len(large))
        if not known:
            return set()
        return known | await self._same([one for one in large if one not in first], len(large))

    def _is_here(self, one: LocalRange) -> bool:
        """Whether a tensor came already, or was taken from another model."""
        units = self._file.checks.of_range(one.begin, one.end)
        return all(index in self._file.have or index in self.units for index in units)

    async def _same(self, tensors: Sequence[LocalRange], count: int) -> set[int]:
        found = await asyncio.gather(*(self._is_same(probe_of(one, count)) for one in tensors))
        return {one.begin for one, same in zip(tensors, found, strict=True) if same}

    async def _is_same(self, probe: LocalRange) -> bool:
        here = await asyncio.to_thread(_read, probe)
        return here == await self._some(probe.begin, probe.end - probe.begin)

    async def _copy(self, ranges: Sequence[LocalRange]) -> None:
        def copy(copying: Copying) -> None:
            take_units(self._file, ranges, copying, guessed=self.units)

        await copied(self._pull, copy)


def _has_header(begin: Path, data: bytes) -> bool:
    """Add bytes to a file with the begin of a model; return whether its header is whole. Raises BrokenGguf."""
    with begin.open("ab") as file:
        file.write(data)
    return begins_whole(begin)


def _keep(file: PartialFile, index: int, data: bytes) -> None:
    file.checks.learn(index, file.checks.digest(data))
    file.put(index, data)


def _read(one: LocalRange) -> bytes:
    try:
        with one.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), one.end - one.begin, one.offset)
    except OSError:
        return b""
