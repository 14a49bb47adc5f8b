"""Seeders and pulls in one process, on loopback, and peers that do not keep to the rules."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from twd.pieces.making import make_manifest
from twd.pieces.manifest import Manifest, write_manifest
from twd.pieces.names import manifest_of
from twd.pieces.source import News, SourceError, SourceTrouble
from twd.pieces.tree import UNIT
from twd.swarm.door import Door
from twd.swarm.library import Library
from twd.swarm.peer import Peer, Peers
from twd.swarm.puller import Hooks
from twd.swarm.seeder import Seeder
from twd.swarm.shared import Shared
from twd.swarm.transfer import Transfer

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def model(folder: Path, mib: int = 6, more: int = 12_345) -> tuple[Path, Manifest]:
    """A file and its manifest beside it."""
    path = folder / "model.gguf"
    path.write_bytes(os.urandom(mib * UNIT + more))
    manifest = make_manifest(path, UNIT)
    write_manifest(manifest_of(path), manifest)
    return path, manifest


@asynccontextmanager
async def seeding(
    path: Path, manifest: Manifest, door: Door | None = None, sent: list[int] | None = None
) -> AsyncIterator[str]:
    """A seeder of a whole file; its address."""
    library = Library()
    library.add(Shared.whole(manifest, path))
    count = (lambda shared, length: sent.append(length)) if sent is not None else None
    async with serving(library, door or Door(), count) as url:
        yield url
    library.close()


@asynccontextmanager
async def serving(
    library: Library, door: Door, sent: Callable[[Shared, int], None] | None = None
) -> AsyncIterator[str]:
    """A seeder of a library."""
    seeder = Seeder(library, sent=sent)
    try:
        yield f"http://127.0.0.1:{await seeder.listen('127.0.0.1', 0, door)}"
    finally:
        await seeder.close()


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A peer that answers every address in its own way."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Listed:
    """What a pull told."""

    banned: list[tuple[str, str, int]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def hooks(self) -> Hooks:
        """Where it tells it."""
        return Hooks(lambda *told: self.banned.append(told), lambda name, text: self.troubles.append(text))


async def pulled(
    manifest: Manifest, target: Path, urls: Sequence[str], *, listed: Listed | None = None, patience_s: float = 5.0
) -> Transfer:
    """One pull from these peers, until it ended."""
    peers = Peers()
    transfer = Transfer(manifest, target, hooks=(listed or Listed()).hooks, patience_s=patience_s)
    try:
        for url in urls:
            transfer.pull.add(Peer(peers, url, manifest.name, manifest.total_size))
        async with asyncio.timeout(60):
            await transfer.run()
    finally:
        await peers.close()
    return transfer


@asynccontextmanager
async def swarm_of(manifest: Manifest, folder: Path, seed: str, count: int) -> AsyncIterator[list[Transfer]]:
    """So many machines that know the seeder and each other, each with a folder and a port of its own."""
    async with AsyncExitStack() as stack:
        libraries = [Library() for _ in range(count)]
        urls = [await stack.enter_async_context(serving(library, Door())) for library in libraries]
        made = []
        for number, library in enumerate(libraries):
            own = folder / f"machine-{number}"
            own.mkdir()
            peers = Peers()
            stack.push_async_callback(peers.close)
            transfer = Transfer(manifest, own / manifest.filename, library=library, patience_s=10.0)
            for url in [seed, *(one for one in urls if one != urls[number])]:
                transfer.pull.add(Peer(peers, url, manifest.name, manifest.total_size))
            made.append(transfer)
        yield made
        for library in libraries:
            library.close()


class Scripted:
    """A source in memory. `spoil` says which units it sends wrong; `fails` how often it fails before it works."""

    def __init__(
        self, name: str, data: bytes, *, spoil: Callable[[int], bool] = lambda index: False, defines: bool = False
    ) -> None:
        self.name, self.defines, self.most, self.least = name, defines, 4, 1
        self._data, self._spoil = data, spoil
        self.asked: list[tuple[int, int]] = []
        self.fails = 0

    async def news(self) -> AsyncIterator[News]:
        """It has all."""
        yield News(have=list(range(-(-len(self._data) // UNIT))))

    async def read(self, begin: int, length: int) -> AsyncIterator[bytes]:
        """The bytes, or what this source makes of them."""
        self.asked.append((begin, length))
        if self.fails:
            self.fails -= 1
            raise SourceError(SourceTrouble.AWAY, f"{self.name} is away", 0.01)
        for at in range(begin, begin + length, UNIT):
            part = bytearray(self._data[at : min(at + UNIT, begin + length)])
            if self._spoil(at // UNIT):
                part[len(part) // 2] ^= 1
            await asyncio.sleep(0)
            yield bytes(part)

    async def close(self) -> None:
        """Nothing to close."""
