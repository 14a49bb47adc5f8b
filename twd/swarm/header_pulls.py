"""The headers of models whose files are elsewhere: what coordinators plan with. They come to any machine."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from twd.pieces.parts import PartFolder
from twd.swarm.layer_transfer import LayerTransfer
from twd.swarm.machines import Machine
from twd.swarm.pulls import Pulls
from twd.wire.base import NodeId
from twd.wire.swarm import PullAnswered, PullWanted


class HeaderPulls:
    """Each model's headers lie in a folder named after its root. The files have their true sizes, and holes."""

    def __init__(
        self, pulls: Pulls, machines: Callable[[], Sequence[Machine]], parts: PartFolder, folder: Path, node: NodeId
    ) -> None:
        self._pulls, self._machines, self._parts = pulls, machines, parts
        self._folder, self._node = folder, node
        self._turn = asyncio.Lock()

    async def fetch(self, event: PullWanted) -> PullAnswered:
        """Bring the headers of a model, and answer where the first file is."""
        manifests = await self._pulls.manifests(event, self._machines())
        first = manifests[0]
        target = self._folder / first.name[:16] / first.filename
        async with self._turn:
            if not target.exists():
                transfer = self._pulls.layers(manifests, None, self._parts, self._machines)
                await transfer.run()
                await asyncio.to_thread(_write, transfer, target.parent)
        return PullAnswered(
            node=self._node,
            root=first.name,
            file=first.filename,
            path=str(target),
            total_bytes=sum(one.data_offset for one in manifests),
            done=True,
        )


def _write(transfer: LayerTransfer, folder: Path) -> None:
    """Write the headers of all files; the first one comes last, so that it stands for all."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for manifest, part in reversed(transfer.parts):
        target = folder / manifest.filename
        unfinished = target.with_name(f".{target.name}.partial")
        with part.open("rb") as source, unfinished.open("wb") as copy:
            copy.write(source.read(manifest.data_offset))
            copy.truncate(manifest.total_size)
        unfinished.replace(target)
