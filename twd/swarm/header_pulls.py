"""The headers of models whose files are elsewhere: what coordinators plan with. They come to any machine."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from weakref import WeakValueDictionary

from twd.pieces.manifest import Manifest
from twd.pieces.parts import PartFolder
from twd.swarm.layer_transfer import LayerTransfer
from twd.swarm.library import Library
from twd.swarm.machines import Machine
from twd.swarm.pulls import Pulls
from twd.swarm.shared import Shared
from twd.wire.base import NodeId
from twd.wire.swarm import PullAnswered, PullWanted


class HeaderPulls:
    """Each model's headers lie in a folder named after its root. The files have their true sizes, and holes."""

    def __init__(
        self,
        pulls: Pulls,
        library: Library,
        machines: Callable[[], Sequence[Machine]],
        parts: PartFolder,
        folder: Path,
        node: NodeId,
    ) -> None:
        self._pulls, self._library, self._machines, self._parts = pulls, library, machines, parts
        self._folder, self._node = folder, node
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One lock for each root."""

    async def fetch(self, event: PullWanted) -> PullAnswered:
        """Bring the headers of a model, and answer where the first file is."""
        manifests = await self._pulls.manifests.find(event, self._machines())
        first = manifests[0]
        target = self._folder / first.name[:16] / first.filename
        async with self._turns.setdefault(first.name, asyncio.Lock()):
            if not target.exists():
                await asyncio.to_thread(_write, manifests, await self._bring(manifests), target.parent)
        return PullAnswered(
            node=self._node,
            root=first.name,
            file=first.filename,
            path=str(target),
            total_bytes=sum(one.data_offset for one in manifests),
            done=True,
        )

    async def _bring(self, manifests: Sequence[Manifest]) -> list[bytes]:
        """Return the header of each file. Other machines are asked only if the headers are not here yet."""
        if here := self._library.with_headers(manifests):
            with ExitStack() as stack:
                for shared in here:
                    stack.enter_context(shared.in_use())
                return await asyncio.to_thread(_read_shared, here)
        transfer = self._pulls.layers(manifests, None, self._parts, self._machines)
        await transfer.run()
        return await asyncio.to_thread(_read, transfer)


def _read_shared(files: Sequence[Shared]) -> list[bytes]:
    return [os.pread(shared.descriptor, shared.manifest.data_offset, 0) for shared in files]


def _read(transfer: LayerTransfer) -> list[bytes]:
    found = []
    for manifest, part in transfer.parts:
        with part.open("rb") as source:
            found.append(source.read(manifest.data_offset))
    return found


def _write(manifests: Sequence[Manifest], headers: Sequence[bytes], folder: Path) -> None:
    """Write the headers of all files, that of the first file last: if it is there, all are."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for manifest, header in reversed(list(zip(manifests, headers, strict=True))):
        target = folder / manifest.filename
        unfinished = target.with_name(f".{target.name}.partial")
        with unfinished.open("wb") as copy:
            copy.write(header)
            copy.truncate(manifest.total_size)
        unfinished.replace(target)
